"""Gated attention, whole, in plain PyTorch.

Shape suffixes: B batch, R row, N token, C channels, S single width, H heads.
"""

import torch
from torch import Tensor

from refsys.ops.gated_linear.reference import gated_linear
from refsys.ops.layer_norm_linear.reference import (
    attention_projection,
    layer_norm_linear,
    pair_bias,
)
from refsys.ops.triangle_attention.reference import triangle_attention


def gated_triangle_attention(
    z_BRNC: Tensor,
    mask_BRN: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    weight_heads: Tensor,
    weight_out: Tensor,
    keep: Tensor | None,
    *,
    rate: float,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.gated_attention.gated_triangle_attention`."""
    qkvg, bias_BHNN = attention_projection(
        z_BRNC, norm_weight, norm_bias, weight, weight_heads, statistics=statistics
    )
    return _attend(qkvg, bias_BHNN, mask_BRN, weight_out, z_BRNC, keep, rate, softmax)


def attention_pair_bias(
    s_BNS: Tensor,
    z_BNNC: Tensor,
    mask_BN: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    pair_norm_weight: Tensor,
    pair_norm_bias: Tensor,
    weight_heads: Tensor,
    weight_out: Tensor,
    *,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.gated_attention.attention_pair_bias`."""
    row = s_BNS.unsqueeze(1)
    qkvg = layer_norm_linear(row, norm_weight, norm_bias, weight, bias, statistics=statistics)
    bias_BHNN = pair_bias(
        z_BNNC, pair_norm_weight, pair_norm_bias, weight_heads, statistics=statistics
    )
    out = _attend(qkvg, bias_BHNN, mask_BN.unsqueeze(1), weight_out, row, None, 0.0, softmax)
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
    q, k, v = (each.unflatten(-1, (bias_BHNN.shape[1], -1)) for each in qkv)
    out = triangle_attention(q, k, v, bias_BHNN, mask_BRN, softmax=softmax)
    return gated_linear(out.flatten(-2), gate, weight_out, residual, keep, rate=rate)
