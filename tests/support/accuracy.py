"""Accuracy of an implementation: at most twice plain PyTorch's error, and two roundings."""

import torch

from bench.accuracy import (
    ALLOWED,
    F64,
    accuracy,
    as_dtype,
    in_float32,
    largest_error,
    results,
    results_on,
    ulp,
)

__all__ = ["F64", "as_dtype", "assert_exact", "largest_error", "nearby", "results", "ulp"]

# Plain PyTorch's error may be small by chance, depending on the processor. For small inputs it is
# the maximum over `NEARBY` perturbed inputs; SMALL is the largest number of elements.
NEARBY, SMALL = 8, 20_000


def assert_exact(operator, tensors, options, dtype, backend="triton"):
    """Compare every output and gradient of a backend, and of plain PyTorch, with float64.

    Args:
        operator: An `Operator`.
        tensors: Arguments, floating-point ones in float64; None for an absent argument.
        options: Options, with float64 in place of the float32 that is used with `dtype`.
        dtype: Dtype to which arguments are rounded first, for both backends and for float64.
        backend: Backend under test; a fallback is an error.
    """
    rounded = [as_dtype(t, dtype) for t in tensors]
    upper = in_float32(options)
    actual = results_on(operator, backend, rounded, upper, dtype)
    reference = operator.with_flat_arguments(operator.reference)

    def exact_and_errors(arguments):
        """Return results of the reference in float64 and the largest errors of those in `dtype`."""
        plain = results(reference, arguments, upper, dtype)
        wide = [as_dtype(t, F64) for t in arguments]
        exact = results(reference, wide, options, dtype)
        return exact, {name: largest_error(plain[name], true) for name, true in exact.items()}

    exact, *errors = exact_and_errors(rounded)
    errors += [exact_and_errors(arguments)[1] for arguments in nearby(rounded)]
    allowed = {name: max(one[name] for one in errors) for name in exact}
    achieved = accuracy(actual, exact, allowed, dtype)
    inexact = [
        f"{n}: {r:.3g} times plain PyTorch's" for n, r in achieved.ratios.items() if r > ALLOWED
    ]
    assert not inexact, "; ".join(inexact)


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
