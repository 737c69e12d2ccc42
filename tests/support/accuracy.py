"""How exact an implementation has to be: at most twice plain PyTorch's error, and two roundings."""

import math

import torch

from refsys import ops
from refsys.ops.backend import Choice

F64 = torch.float64


def assert_exact(operator, tensors, options, dtype, backend="triton"):
    """Compares every output and gradient of a backend, and of plain PyTorch, with float64.

    Args:
        operator: An `Operator`.
        tensors: Its arguments, in float64 where they are floating-point; None where it has none.
        options: Its options, with float64 where beside `dtype` it is float32.
        dtype: What the arguments are rounded to before anyone gets them.
        backend: What is judged; a fallback is an error.
    """

    def judged(*arguments, **keywords):
        return operator(*arguments, backend=backend, **keywords)

    rounded = [as_dtype(t, dtype) for t in tensors]
    upper = {key: torch.float32 if value is F64 else value for key, value in options.items()}
    before = ops.calls()
    found = results(judged, rounded, upper, dtype)
    assert list(ops.calls() - before) == [Choice(operator.name, backend)], ops.fallbacks()
    plain = results(operator.reference, rounded, upper, dtype)
    exact = results(operator.reference, [as_dtype(t, F64) for t in rounded], options, dtype)
    largest = max(true.abs().max().item() for true in exact.values())
    for name, true in exact.items():
        assert found[name].dtype == dtype, name
        assert found[name].isfinite().all(), name
        error, allowed = ((x[name].double() - true).abs().max().item() for x in (found, plain))
        scale = true.abs().max().item()
        # A gradient that vanishes by symmetry is a sum of others that do not: rounded as they are.
        roundings = 2 * ulp(scale if scale > 1e-12 * largest else largest, dtype)
        assert error <= 2 * allowed + roundings, f"{name}: {error:.3g} beside {allowed:.3g}"


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
