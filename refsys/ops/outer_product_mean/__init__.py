"""Outer product mean (Algorithm 9): pair update from two projections of the MSA."""

import torch
from torch import Tensor

from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_rank, nbytes
from refsys.ops.outer_product_mean import reference, triton


def _flops(
    a: Tensor,
    b: Tensor,
    _mask_a: Tensor,
    _mask_b: Tensor,
    weight: Tensor,
    _bias: Tensor,
    **_options: object,
) -> int:
    batch, rows, tokens_i, width = a.shape
    pairs = batch * tokens_i * b.shape[2]
    return 2 * pairs * (rows * width * width + rows + weight.numel())


_OPERATOR = Operator(
    "outer_product_mean",
    reference.outer_product_mean,
    flops=_flops,
    minimum_bytes=lambda a, b, mask_a, mask_b, weight, bias, **_options: (
        nbytes(a, b, mask_a, mask_b, weight, bias)
        + a.shape[0] * a.shape[2] * b.shape[2] * weight.shape[0] * a.element_size()
    ),
    kernels={"triton": Implementation(triton.outer_product_mean, triton.unsupported_reason)},
)


def outer_product_mean(
    a: Tensor,
    b: Tensor,
    mask_a: Tensor,
    mask_b: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    accumulation: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """Linear(Σₛ a[s, i] ⊗ b[s, j]) / (10⁻³ + number of MSA rows that cover both i and j).

    Args:
        a: [batch, MSA row, token i, h], zero where `mask_a` is False.
        b: [batch, MSA row, token j, h], dtype of `a`, zero where `mask_b` is False; any number of
            tokens.
        mask_a: [batch, MSA row, token i] bool.
        mask_b: [batch, MSA row, token j] bool.
        weight: [c_z, h·h].
        bias: [c_z].
        accumulation: Dtype of the count and of the division.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, token i, token j, c_z] in the dtype of `a`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("a", a, "batch alignment_row token h")
    check_rank("b", b, "batch alignment_row token h")
    batch, rows, tokens_i, width = a.shape
    check("b", b, (batch, rows, b.shape[2], width), like=a, dtype=a.dtype)
    check("mask_a", mask_a, (batch, rows, tokens_i), like=a, dtype=torch.bool)
    check("mask_b", mask_b, b.shape[:-1], like=a, dtype=torch.bool)
    check("weight", weight, (weight.shape[0], width * width), like=a)
    check("bias", bias, (weight.shape[0],), like=a)
    return _OPERATOR(a, b, mask_a, mask_b, weight, bias, accumulation=accumulation, backend=backend)
