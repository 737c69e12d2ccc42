"""Transition (Algorithm 11): LayerNorm, SwiGLU, linear, and the residual around them."""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, nbytes
from refsys.ops.transition import reference, triton


def _flops(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    **_options: object,
) -> int:
    return 2 * (x.numel() // x.shape[-1]) * (weight_in.numel() + weight_out.numel())


_OPERATOR = Operator(
    "transition",
    reference.transition,
    flops=_flops,
    minimum_bytes=lambda x, norm_weight, norm_bias, weight_in, weight_out, **_options: nbytes(
        x, norm_weight, norm_bias, weight_in, weight_out, x
    ),
    kernels={"triton": Implementation(triton.transition, triton.why_not)},
)


def transition(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    *,
    statistics: torch.dtype,
    residual: bool = False,
    backend: str | None = None,
) -> Tensor:
    """W_out(swish(u) · v), with u and v the halves of W_in LayerNorm(x), and x if `residual`.

    Args:
        x: [..., c].
        norm_weight: [c] scale of the LayerNorm.
        norm_bias: [c] offset of the LayerNorm.
        weight_in: [2nc, c]: the gate's and the value's projection.
        weight_out: [c, nc].
        statistics: The dtype inside LayerNorm.
        residual: Adds `x` itself.
        backend: See `refsys.ops.backend`.

    Returns:
        [..., c] in the dtype of `x`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    width = x.shape[-1]
    check("norm_weight", norm_weight, (width,), like=x)
    check("norm_bias", norm_bias, (width,), like=x)
    if weight_in.dim() != 2 or weight_in.shape[0] % 2:
        raise ArgumentError(f"weight_in has shape {tuple(weight_in.shape)}; expected [2nc, c]")
    check("weight_in", weight_in, (weight_in.shape[0], width), like=x)
    check("weight_out", weight_out, (width, weight_in.shape[0] // 2), like=x)
    return _OPERATOR(
        *(x, norm_weight, norm_bias, weight_in, weight_out),
        statistics=statistics,
        residual=residual,
        backend=backend,
    )
