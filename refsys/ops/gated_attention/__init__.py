"""Fused gated attention, from LayerNorm to residual, where one rank holds all tokens.

Triangle attention (Algorithms 14 and 15) and attention with pair bias (Algorithm 24): the sequence
of `layer_norm_linear`, `triangle_attention` and `gated_linear` as one operator that saves its
input, the attention output and per-query softmax statistics, and recomputes the rest in backward.
"""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Implementation, Operator, flat_tensors
from refsys.ops.contract import check, check_dropout, check_norm, check_rank, nbytes
from refsys.ops.gated_attention import reference, triton
from refsys.ops.gated_attention.reference import AttentionPairBiasWeights, TriangleAttentionWeights


def _triangle_flops(
    z: Tensor,
    _mask: Tensor,
    weights: TriangleAttentionWeights,
    *_arguments: object,
    **_options: object,
) -> int:
    positions, tokens = z.numel() // z.shape[-1], z.shape[2]
    matrices = weights.weight.numel() + weights.weight_heads.numel() + weights.weight_out.numel()
    return 2 * positions * matrices + 4 * z.numel() * tokens


def _pair_bias_flops(
    s: Tensor, z: Tensor, _mask: Tensor, weights: AttentionPairBiasWeights, **_options: object
) -> int:
    rows, tokens = s.numel() // s.shape[-1], s.shape[1]
    linear = 2 * rows * (weights.weight.numel() + weights.weight_out.numel())
    return linear + 2 * z.numel() * weights.weight_heads.shape[0] + 4 * s.numel() * tokens


_TRIANGLE = Operator(
    "gated_triangle_attention",
    reference.gated_triangle_attention,
    flops=_triangle_flops,
    minimum_bytes=lambda z, *arguments, **_options: nbytes(z, z, *flat_tensors(arguments)),
    kernels={
        "triton": Implementation(triton.gated_triangle_attention, triton.unsupported_triangle)
    },
    scores=lambda z, _mask, weights, *_arguments, **_options: (
        z.numel() // z.shape[-1] * z.shape[2] * weights.weight_heads.shape[0]
    ),
    weights=TriangleAttentionWeights,
    weights_position=2,
)
_PAIR_BIAS = Operator(
    "attention_pair_bias",
    reference.attention_pair_bias,
    flops=_pair_bias_flops,
    minimum_bytes=lambda s, *arguments, **_options: nbytes(s, s, *flat_tensors(arguments)),
    kernels={"triton": Implementation(triton.attention_pair_bias, triton.unsupported_pair_bias)},
    scores=lambda _s, z, _mask, weights, **_options: (
        z.numel() // z.shape[-1] * weights.weight_heads.shape[0]
    ),
    weights=AttentionPairBiasWeights,
    weights_position=3,
)


def gated_triangle_attention(
    z: Tensor,
    mask: Tensor,
    weights: TriangleAttentionWeights,
    keep: Tensor | None,
    *,
    rate: float,
    softmax: torch.dtype,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """Triangle attention of the starting node; of the ending node, on the transposed tensor.

    Args:
        z: [batch, token, token, c]; strides are free.
        mask: [batch, token, token] bool; False removes the key from its row.
        weights: See `TriangleAttentionWeights`.
        keep: [batch, token, c] bool, one mask of dropout for all rows; None drops nothing.
        rate: Probability of dropping, in [0, 1).
        softmax: Dtype of logits and probabilities.
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        z with the update added, in the layout of z.

    Raises:
        ArgumentError: a shape, dtype or device, or the rate does not fit.
    """
    check_rank("z", z, "batch token token c")
    if z.shape[1] != z.shape[2]:
        raise ArgumentError(f"z has shape {tuple(z.shape)}; expected as many rows as columns")
    width = z.shape[-1]
    check("mask", mask, z.shape[:-1], like=z, dtype=torch.bool)
    _check_weights(z, weights)
    _check_heads(weights.weight_heads, width, width, z)
    check_dropout(z, keep, rate, z.shape, like=z)
    return _TRIANGLE(
        z,
        mask,
        weights,
        keep,
        rate=rate,
        softmax=softmax,
        statistics=statistics,
        backend=backend,
    )


def attention_pair_bias(
    s: Tensor,
    z: Tensor,
    mask: Tensor,
    weights: AttentionPairBiasWeights,
    *,
    softmax: torch.dtype,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """Attention of all tokens to all tokens, biased by the queries' rows of the pair tensor.

    Args:
        s: [batch, token, c_s].
        z: [batch, token, token, c_z], dtype of `s`; strides are free.
        mask: [batch, token] bool; False removes the key.
        weights: See `AttentionPairBiasWeights`.
        softmax: Dtype of logits and probabilities.
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        s with the update added.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("s", s, "batch token c")
    batch, tokens, width = s.shape
    check_rank("z", z, "batch token token c")
    check("z", z, (batch, tokens, tokens, z.shape[-1]), like=s, dtype=s.dtype)
    check("mask", mask, (batch, tokens), like=s, dtype=torch.bool)
    _check_weights(s, weights)
    check("bias", weights.bias, (width,), like=s)
    check("pair_norm_weight", weights.pair_norm_weight, z.shape[-1:], like=s)
    check("pair_norm_bias", weights.pair_norm_bias, z.shape[-1:], like=s)
    _check_heads(weights.weight_heads, z.shape[-1], width, s)
    return _PAIR_BIAS(s, z, mask, weights, softmax=softmax, statistics=statistics, backend=backend)


def _check_weights(x: Tensor, weights: TriangleAttentionWeights | AttentionPairBiasWeights) -> None:
    width = x.shape[-1]
    check_norm(x, weights.norm_weight, weights.norm_bias)
    check("weight", weights.weight, (4 * width, width), like=x)
    check("weight_out", weights.weight_out, (width, width), like=x)


def _check_heads(weight_heads: Tensor, pair_width: int, width: int, like: Tensor) -> None:
    check_rank("weight_heads", weight_heads, "head c")
    heads = weight_heads.shape[0]
    check("weight_heads", weight_heads, (heads, pair_width), like=like)
    if not heads or width % heads:
        raise ArgumentError(f"weight_heads has {heads} heads; {width} channels do not divide by it")
