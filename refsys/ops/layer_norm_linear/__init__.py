"""LayerNorm and the linear layers that read it.

The first stage of attention: queries, keys, values and gates of each position, and, for each head,
the bias that all rows share.
"""

import torch
from torch import Tensor

from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_norm, check_rank, nbytes
from refsys.ops.layer_norm_linear import reference, triton
from refsys.ops.layer_norm_linear.reference import (
    AttentionProjectionWeights,
    LinearWeights,
    PairBiasWeights,
)


def _flops(x: Tensor, *matrices: Tensor) -> int:
    return sum(2 * (x.numel() // x.shape[-1]) * matrix.numel() for matrix in matrices)


def _bytes(x: Tensor, weights: tuple[Tensor | None, ...], out_width: int) -> int:
    return nbytes(x, *weights) + x.numel() // x.shape[-1] * out_width * x.element_size()


_LINEAR = Operator(
    "layer_norm_linear",
    reference.layer_norm_linear,
    flops=lambda x, weights, **_options: _flops(x, weights.weight),
    minimum_bytes=lambda x, weights, **_options: _bytes(x, weights, weights.weight.shape[0]),
    kernels={"triton": Implementation(triton.layer_norm_linear, triton.unsupported_reason)},
    weights=LinearWeights,
)
_PAIR_BIAS = Operator(
    "pair_bias",
    reference.pair_bias,
    flops=lambda z, weights, **_options: _flops(z, weights.weight_heads),
    minimum_bytes=lambda z, weights, **_options: _bytes(z, weights, weights.weight_heads.shape[0]),
    kernels={"triton": Implementation(triton.pair_bias, triton.unsupported_reason_heads)},
    weights=PairBiasWeights,
)
_PROJECTION = Operator(
    "attention_projection",
    reference.attention_projection,
    flops=lambda z, weights, **_options: _flops(z, weights.weight, weights.weight_heads),
    minimum_bytes=lambda z, weights, **_options: _bytes(
        z, weights, weights.weight.shape[0] + weights.weight_heads.shape[0]
    ),
    kernels={
        "triton": Implementation(triton.attention_projection, triton.unsupported_reason_heads)
    },
    weights=AttentionProjectionWeights,
)


def layer_norm_linear(
    x: Tensor, weights: LinearWeights, *, statistics: torch.dtype, backend: str | None = None
) -> Tensor:
    """LayerNorm(x) Wᵀ (+ b), at any width and any number of rows.

    Args:
        x: [..., c]; strides are free.
        weights: See `LinearWeights`.
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [..., o] in the dtype of `x`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    check_norm(x, weights.norm_weight, weights.norm_bias)
    _check_matrix("weight", weights.weight, x)
    if weights.bias is not None:
        outs = min(weights.bias.numel(), weights.weight.shape[0])
        check("bias", weights.bias, (outs,), like=x)
    return _LINEAR(x, weights, statistics=statistics, backend=backend)


def pair_bias(
    z: Tensor, weights: PairBiasWeights, *, statistics: torch.dtype, backend: str | None = None
) -> Tensor:
    """Bias of each attention head from a pair tensor: LayerNorm(z) Wᵀ, with heads in front.

    Args:
        z: [batch, row, token, c]; strides are free.
        weights: See `PairBiasWeights`.
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, head, row, token] in the dtype of `z`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    check_rank("z", z, "batch row token c")
    check_norm(z, weights.norm_weight, weights.norm_bias)
    _check_matrix("weight_heads", weights.weight_heads, z)
    return _PAIR_BIAS(z, weights, statistics=statistics, backend=backend)


def attention_projection(
    z: Tensor,
    weights: AttentionProjectionWeights,
    *,
    statistics: torch.dtype,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Queries, keys, values and gates of triangle attention, and its bias, from one LayerNorm.

    Args:
        z: [batch, row, token, c]; strides are free.
        weights: See `AttentionProjectionWeights`.
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, row, token, o] and [batch, head, row, token], in the dtype of `z`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    check_rank("z", z, "batch row token c")
    check_norm(z, weights.norm_weight, weights.norm_bias)
    _check_matrix("weight", weights.weight, z)
    _check_matrix("weight_heads", weights.weight_heads, z)
    return _PROJECTION(z, weights, statistics=statistics, backend=backend)


def _check_matrix(name: str, weight: Tensor, x: Tensor) -> None:
    check_rank(name, weight, "out c")
    check(name, weight, (weight.shape[0], x.shape[-1]), like=x)
