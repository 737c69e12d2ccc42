"""Accuracy of an implementation: at most twice plain PyTorch's error, and two roundings."""

import math

import torch

from refsys import ops
from refsys.ops.backend import Choice

F64 = torch.float64
# Plain PyTorch's error in a few elements may be small by chance, on one processor and not on
# another. It is the largest over so many inputs near the given one, if they are small.
NEARBY, SMALL = 8, 20_000


def assert_exact(operator, tensors, options, dtype, backend="triton"):
    """Compare every output and gradient of a backend, and of plain PyTorch, with float64.

    Args:
        operator: An `Operator`.
        tensors: Its arguments, in float64 where they are floating-point; None where it has none.
        options: Its options, with float64 where beside `dtype` it is float32.
        dtype: Arguments are rounded to it first, for both backends and for float64.
        backend: Backend that is judged; a fallback is an error.
    """

    def judged(*arguments, **keywords):
        return operator(*arguments, backend=backend, **keywords)

    rounded = [as_dtype(t, dtype) for t in tensors]
    upper = {key: torch.float32 if value is F64 else value for key, value in options.items()}
    before = ops.calls()
    found = results(judged, rounded, upper, dtype)
    assert list(ops.calls() - before) == [Choice(operator.name, backend)], ops.fallbacks()

    def exact_and_errors(arguments):
        """Results of the reference in float64, and the largest errors of those in `dtype`."""
        plain = results(operator.reference, arguments, upper, dtype)
        wide = [as_dtype(t, F64) for t in arguments]
        exact = results(operator.reference, wide, options, dtype)
        return exact, {name: largest_error(plain[name], true) for name, true in exact.items()}

    exact, *errors = exact_and_errors(rounded)
    errors += [exact_and_errors(arguments)[1] for arguments in nearby(rounded)]
    largest = max(true.abs().max().item() for true in exact.values())
    for name, true in exact.items():
        assert found[name].dtype == dtype, name
        assert found[name].isfinite().all(), name
        error, allowed = largest_error(found[name], true), max(each[name] for each in errors)
        scale = true.abs().max().item()
        # A gradient that vanishes by symmetry is a sum of others that do not: rounded as they are.
        roundings = 2 * ulp(scale if scale > 1e-12 * largest else largest, dtype)
        assert error <= 2 * allowed + roundings, f"{name}: {error:.3g} beside {allowed:.3g}"


def largest_error(found, exact):
    return (found.double() - exact).abs().max().item()


def nearby(tensors):
    """Yield `NEARBY` copies of small arguments, every number changed by about one per cent."""
    if sum(t.numel() for t in tensors if t is not None) > SMALL:
        return
    generator = torch.Generator().manual_seed(2)
    for _ in range(NEARBY):
        yield [
            t * (1 + 0.01 * torch.randn(t.shape, generator=generator)).to(t)
            if t is not None and t.is_floating_point()
            else t
            for t in tensors
        ]


def results(call, tensors, options, dtype):
    """Outputs and gradients by name; what flows back is fixed, and rounded to `dtype`."""
    inputs = [t if t is None else t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    found = call(*inputs, **options)
    outputs = found if isinstance(found, tuple) else (found,)
    generator = torch.Generator().manual_seed(1)
    towards = [
        torch.randn(output.shape, generator=generator).to(dtype).to(output) for output in outputs
    ]
    leaves = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    gradients = torch.autograd.grad(
        outputs, leaves, towards, allow_unused=True, materialize_grads=True
    )
    named = {f"output {number}": output.detach() for number, output in enumerate(outputs)}
    return named | {f"gradient {number}": each for number, each in enumerate(gradients)}


def as_dtype(tensor, dtype):
    return tensor.to(dtype) if tensor is not None and tensor.is_floating_point() else tensor


def ulp(value, dtype):
    """The distance from a positive value to the next that the dtype has."""
    return torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(value)) if value else 0.0
