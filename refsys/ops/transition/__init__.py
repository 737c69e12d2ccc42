"""Transition (Algorithm 11): LayerNorm, SwiGLU, linear, and the residual around them."""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_norm, nbytes
from refsys.ops.transition import reference, triton
from refsys.ops.transition.reference import TransitionWeights


def _flops(x: Tensor, weights: TransitionWeights, **_options: object) -> int:
    matrices = weights.weight_in.numel() + weights.weight_out.numel()
    return 2 * (x.numel() // x.shape[-1]) * matrices


_OPERATOR = Operator(
    "transition",
    reference.transition,
    flops=_flops,
    minimum_bytes=lambda x, weights, **_options: nbytes(x, *weights, x),
    kernels={"triton": Implementation(triton.transition, triton.unsupported_reason)},
    weights=TransitionWeights,
)


def transition(
    x: Tensor,
    weights: TransitionWeights,
    *,
    statistics: torch.dtype,
    residual: bool = False,
    backend: str | None = None,
) -> Tensor:
    """W_out(swish(u) · v), with u and v the halves of W_in LayerNorm(x), and x if `residual`.

    Args:
        x: [..., c].
        weights: See `TransitionWeights`.
        statistics: Dtype inside LayerNorm.
        residual: Whether `x` is added.
        backend: See `refsys.ops.backend`.

    Returns:
        [..., c] in the dtype of `x`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    width, weight_in = x.shape[-1], weights.weight_in
    check_norm(x, weights.norm_weight, weights.norm_bias)
    if weight_in.dim() != 2 or weight_in.shape[0] % 2:
        raise ArgumentError(f"weight_in has shape {tuple(weight_in.shape)}; expected [2nc, c]")
    check("weight_in", weight_in, (weight_in.shape[0], width), like=x)
    check("weight_out", weights.weight_out, (width, weight_in.shape[0] // 2), like=x)
    return _OPERATOR(x, weights, statistics=statistics, residual=residual, backend=backend)
