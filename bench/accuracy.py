"""Accuracy of an operator's implementation, against float64 and beside plain PyTorch.

An implementation is accurate enough if its largest error against the reference in float64 is at
most twice that of the reference in the same dtype, plus two roundings.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.errors import BenchError
from refsys import ops
from refsys.config import preset
from refsys.ops.backend import Choice, Operator
from refsys.precision import PRECISIONS
from workloads.operator_arguments import CALLS

F64 = torch.float64
# Largest allowed error, in units of plain PyTorch's.
ALLOWED = 2.0

Options = Mapping[str, Any]
Arguments = Sequence[Tensor | None]
Results = dict[str, Tensor]


class NotServedError(BenchError):
    """The operator did not run on the requested backend."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of an implementation.

    Attributes:
        ratio: Largest error over all results, in units of plain PyTorch's error and one rounding;
            infinite where a result is not finite or of another dtype. At most `ALLOWED` is exact.
        worst: The result that has it, as ``gradient 2``.
        ratios: The same of each result.
    """

    ratio: float
    worst: str
    ratios: Mapping[str, float] = field(default_factory=dict)


def draw_arguments(
    operator: str, model: str, tokens: int, device: torch.device
) -> tuple[list[Tensor], dict[str, Any]]:
    """Draw arguments of an operator at a model's shapes, the same for the same arguments.

    Args:
        operator: Its name.
        model: Preset whose widths it has.
        tokens: Tokens.
        device: Where the tensors live.

    Returns:
        Tensors, in float64 where they are floating-point (standard normal, a weight divided by the
        root of its fan-in; a mask keeps five of six), and the other arguments, with float64 where
        the bfloat16 table has float32.
    """
    call = CALLS[operator](preset(model), PRECISIONS["float64"], 1, tokens)
    generator = torch.Generator(device).manual_seed(0)
    tensors = []
    for argument in call.arguments:
        normal = torch.randn(argument.shape, generator=generator, device=device, dtype=F64)
        if argument.kind == "mask":
            tensors.append(normal > -1)
        else:
            fan_in = argument.shape[-1] if argument.kind == "weight" else 1
            tensors.append(argument.scale * normal / fan_in**0.5)
    return tensors, dict(call.options)


def compare(
    operator: Operator, tensors: Arguments, options: Options, dtype: torch.dtype, backend: str
) -> Accuracy:
    """Compare every output and gradient of a backend, and of plain PyTorch, with float64.

    Args:
        operator: The operator.
        tensors: Its arguments, in float64 where they are floating-point; None where it has none.
        options: Its options, with float64 where beside `dtype` it is float32.
        dtype: Arguments are rounded to it first, for both backends and for float64.
        backend: Backend whose errors are returned.

    Raises:
        NotServedError: the operator fell back to another backend; the message says why.
    """
    rounded = [as_dtype(t, dtype) for t in tensors]
    upper = in_float32(options)
    candidate = results_on(operator, backend, rounded, upper, dtype)
    reference = operator.with_flat_arguments(operator.reference)
    plain = results(reference, rounded, upper, dtype)
    wide = [as_dtype(t, F64) for t in rounded]
    exact = results(reference, wide, options, dtype)
    errors = {name: largest_error(plain[name], true) for name, true in exact.items()}
    return accuracy(candidate, exact, errors, dtype)


def accuracy(
    candidate: Results, exact: Results, errors: Mapping[str, float], dtype: torch.dtype
) -> Accuracy:
    """Return the accuracy of results.

    Args:
        candidate: Results of an implementation in `dtype`.
        exact: Results in float64.
        errors: Largest error of plain PyTorch by result.
        dtype: Dtype that both computed in.
    """
    largest = max(true.abs().max().item() for true in exact.values())
    ratios: dict[str, float] = {}
    for name, true in exact.items():
        value = candidate[name]
        if value.dtype != dtype or not bool(value.isfinite().all()):
            ratios[name] = math.inf
            continue
        scale = true.abs().max().item()
        # A gradient that vanishes by symmetry is a sum of terms that do not, with their rounding.
        rounding = ulp(scale if scale > 1e-12 * largest else largest, dtype)
        error, allowed = largest_error(value, true), errors[name] + rounding
        ratios[name] = error / allowed if allowed else math.inf if error else 0.0
    worst = max(ratios, key=ratios.__getitem__)
    return Accuracy(ratios[worst], worst, ratios)


def results_on(
    operator: Operator, backend: str, tensors: Arguments, options: Options, dtype: torch.dtype
) -> Results:
    """Return outputs and gradients of an operator on a backend; see `results`.

    Raises:
        NotServedError: the operator fell back to another backend; the message says why.
    """

    def run(*arguments: Any, **keywords: Any) -> Any:
        return operator.with_flat_arguments(operator)(*arguments, backend=backend, **keywords)

    before, fallbacks = ops.calls(), ops.fallbacks()
    outcome = results(run, tensors, options, dtype)
    if list(ops.calls() - before) != [Choice(operator.name, backend)]:
        new = ops.fallbacks() - fallbacks
        reason = "; ".join(sorted({fallback.reason for fallback in new})) or "another one ran"
        raise NotServedError(f"{operator.name} does not run on {backend}: {reason}")
    return outcome


def results(
    call: Callable[..., Any], tensors: Arguments, options: Options, dtype: torch.dtype
) -> Results:
    """Return outputs and gradients by name; output gradients are fixed, and rounded to `dtype`."""
    inputs = [t if t is None else t.detach().requires_grad_(t.is_floating_point()) for t in tensors]
    returned = call(*inputs, **options)
    outputs = returned if isinstance(returned, tuple) else (returned,)
    generator = torch.Generator().manual_seed(1)
    towards = [
        torch.randn(output.shape, generator=generator).to(dtype).to(output) for output in outputs
    ]
    leaves = [tensor for tensor in inputs if tensor is not None and tensor.requires_grad]
    gradients = torch.autograd.grad(
        outputs, leaves, towards, allow_unused=True, materialize_grads=True
    )
    named = {f"output {number}": output.detach() for number, output in enumerate(outputs)}
    return named | {f"gradient {number}": gradient for number, gradient in enumerate(gradients)}


def differing_numbers(first: Results, second: Results) -> int:
    """Return the number of elements of two runs that differ in a bit."""
    return sum(int((_bits(first[name]) != _bits(second[name])).sum().item()) for name in first)


def _bits(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor, so that two NaN of the same bits are equal."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(whole)


def in_float32(options: Options) -> dict[str, Any]:
    """Return options with float32 in the place of float64."""
    return {key: torch.float32 if value is F64 else value for key, value in options.items()}


def as_dtype(tensor: Any, dtype: torch.dtype) -> Any:
    """Return a floating-point tensor in a dtype; anything else as it is."""
    return tensor.to(dtype) if tensor is not None and tensor.is_floating_point() else tensor


def largest_error(actual: Tensor, exact: Tensor) -> float:
    """Return the largest difference of two tensors."""
    return float((actual.double() - exact).abs().max().item())


def ulp(value: float, dtype: torch.dtype) -> float:
    """Return the distance from a positive value to the next that the dtype has."""
    return torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(value)) if value else 0.0
