"""Adaptive LayerNorm (last line of Algorithm 26): LayerNorm scaled and shifted by a condition."""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.adaptive_layer_norm import reference, triton
from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_rank, nbytes

_OPERATOR = Operator(
    "adaptive_layer_norm",
    reference.adaptive_layer_norm,
    flops=lambda *_arguments, **_options: 0,
    minimum_bytes=lambda a, scale, shift, **_options: nbytes(a, scale, shift, a),
    kernels={"triton": Implementation(triton.adaptive_layer_norm, triton.unsupported_reason)},
)


def adaptive_layer_norm(
    a: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """sigmoid(scale) · LayerNorm(a) + shift, with one condition for all samples or one for each.

    Args:
        a: [batch, sample, row, c].
        scale: [batch, 1 or sample, row, c] logits, dtype of `a`.
        shift: Shape and dtype of `scale`.
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, sample, row, c] in the dtype of `a`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_conditions(a, scale=scale, shift=shift)
    return _OPERATOR(a, scale, shift, statistics=statistics, backend=backend)


def check_conditions(a: Tensor, **conditions: Tensor) -> None:
    """Check conditions of [batch, sample, row, c] by name: of one shape, with one sample or all.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("a", a, "batch sample row c")
    batch, samples, rows, width = a.shape
    (first, shape), *_ = ((name, tensor.shape) for name, tensor in conditions.items())
    conditioned = shape[1] if len(shape) == 4 else 0
    if conditioned not in (1, samples):
        expected = f"[{batch}, 1 or {samples}, {rows}, {width}]"
        raise ArgumentError(f"{first} has shape {tuple(shape)}; expected {expected}")
    for name, tensor in conditions.items():
        check(name, tensor, (batch, conditioned, rows, width), like=a, dtype=a.dtype)
