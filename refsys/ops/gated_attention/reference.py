"""Fused gated attention, in plain PyTorch.

Shape suffixes: B batch, R row, N token, C channels, S single width, H heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from refsys.ops.gated_linear.reference import gated_linear
from refsys.ops.layer_norm_linear.reference import (
    AttentionProjectionWeights,
    LinearWeights,
    PairBiasWeights,
    attention_projection,
    layer_norm_linear,
    pair_bias,
)
from refsys.ops.triangle_attention.reference import triangle_attention


class TriangleAttentionWeights(NamedTuple):
    """Weights of `gated_triangle_attention`.

    Attributes:
        norm_weight: [c] scale of the LayerNorm.
        norm_bias: [c] offset of the LayerNorm.
        weight: [4c, c]: queries, keys, values and gates.
        weight_heads: [head, c]: the bias that rows share.
        weight_out: [c, c].
    """

    norm_weight: Tensor
    norm_bias: Tensor
    weight: Tensor
    weight_heads: Tensor
    weight_out: Tensor


class AttentionPairBiasWeights(NamedTuple):
    """Weights of `attention_pair_bias`.

    Attributes:
        norm_weight: [c_s] scale of the LayerNorm of s.
        norm_bias: [c_s] offset of the LayerNorm of s.
        weight: [4c_s, c_s]: queries, keys, values and gates.
        bias: [c_s] of the queries.
        pair_norm_weight: [c_z] scale of the LayerNorm of z.
        pair_norm_bias: [c_z] offset of the LayerNorm of z.
        weight_heads: [head, c_z].
        weight_out: [c_s, c_s].
    """

    norm_weight: Tensor
    norm_bias: Tensor
    weight: Tensor
    bias: Tensor
    pair_norm_weight: Tensor
    pair_norm_bias: Tensor
    weight_heads: Tensor
    weight_out: Tensor


def gated_triangle_attention(
    z_BRNC: Tensor,
    mask_BRN: Tensor,
    weights: TriangleAttentionWeights,
    keep: Tensor | None,
    *,
    rate: float,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.gated_attention.gated_triangle_attention`."""
    *projection, weight_out = weights
    qkvg, bias_BHNN = attention_projection(
        z_BRNC, AttentionProjectionWeights(*projection), statistics=statistics
    )
    return _attend(qkvg, bias_BHNN, mask_BRN, weight_out, z_BRNC, keep, rate, softmax)


def attention_pair_bias(
    s_BNS: Tensor,
    z_BNNC: Tensor,
    mask_BN: Tensor,
    weights: AttentionPairBiasWeights,
    *,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.gated_attention.attention_pair_bias`."""
    row = s_BNS.unsqueeze(1)
    single = LinearWeights(weights.norm_weight, weights.norm_bias, weights.weight, weights.bias)
    pair = PairBiasWeights(weights.pair_norm_weight, weights.pair_norm_bias, weights.weight_heads)
    qkvg = layer_norm_linear(row, single, statistics=statistics)
    bias_BHNN = pair_bias(z_BNNC, pair, statistics=statistics)
    mask_BRN = mask_BN.unsqueeze(1)
    out = _attend(qkvg, bias_BHNN, mask_BRN, weights.weight_out, row, None, 0.0, softmax)
    return out.squeeze(1)


def _attend(
    qkvg: Tensor,
    bias_BHNN: Tensor,
    mask_BRN: Tensor,
    weight_out: Tensor,
    residual: Tensor,
    keep: Tensor | None,
    rate: float,
    softmax: torch.dtype,
) -> Tensor:
    *qkv, gate = qkvg.chunk(4, dim=-1)
    q, k, v = (tensor.unflatten(-1, (bias_BHNN.shape[1], -1)) for tensor in qkv)
    out = triangle_attention(q, k, v, bias_BHNN, mask_BRN, softmax=softmax)
    return gated_linear(out.flatten(-2), gate, weight_out, residual, keep, rate=rate)
