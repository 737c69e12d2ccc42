"""LayerNorm and linear layers that read it, in plain PyTorch.

Shape suffixes: B batch, R row, N token, C channels, H heads.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.layer_norm.reference import layer_norm


class LinearWeights(NamedTuple):
    """Weights of `layer_norm_linear`.

    Attributes:
        norm_weight: [c] scale of the LayerNorm; None scales by one.
        norm_bias: [c] offset of the LayerNorm; None adds nothing.
        weight: [o, c].
        bias: [b] for the first b ≤ o output channels; None adds nothing.
    """

    norm_weight: Tensor | None
    norm_bias: Tensor | None
    weight: Tensor
    bias: Tensor | None = None


class PairBiasWeights(NamedTuple):
    """Weights of `pair_bias`.

    Attributes:
        norm_weight: [c] scale of the LayerNorm; None scales by one.
        norm_bias: [c] offset of the LayerNorm; None adds nothing.
        weight_heads: [head, c].
    """

    norm_weight: Tensor | None
    norm_bias: Tensor | None
    weight_heads: Tensor


class AttentionProjectionWeights(NamedTuple):
    """Weights of `attention_projection`.

    Attributes:
        norm_weight: [c] scale of the LayerNorm.
        norm_bias: [c] offset of the LayerNorm.
        weight: [o, c]: queries, keys, values and gates, concatenated.
        weight_heads: [head, c]: the bias of each head.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    weight: Tensor
    weight_heads: Tensor


def layer_norm_linear(x: Tensor, weights: LinearWeights, *, statistics: torch.dtype) -> Tensor:
    """See `refsys.ops.layer_norm_linear.layer_norm_linear`."""
    norm_weight, norm_bias, weight, bias = weights
    normalized = layer_norm(x, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    if bias is not None:
        bias = F.pad(bias.to(x.dtype), (0, weight.shape[0] - bias.shape[0]))
    return F.linear(normalized, weight.to(x.dtype), bias)


def pair_bias(z_BRNC: Tensor, weights: PairBiasWeights, *, statistics: torch.dtype) -> Tensor:
    """See `refsys.ops.layer_norm_linear.pair_bias`."""
    bias_BRNH = layer_norm_linear(z_BRNC, LinearWeights(*weights), statistics=statistics)
    return bias_BRNH.permute(0, 3, 1, 2)


def attention_projection(
    z_BRNC: Tensor, weights: AttentionProjectionWeights, *, statistics: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `refsys.ops.layer_norm_linear.attention_projection`."""
    norm_weight, norm_bias, weight, weight_heads = weights
    normalized = layer_norm(z_BRNC, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    bias_BRNH = F.linear(normalized, weight_heads.to(z_BRNC.dtype))
    return F.linear(normalized, weight.to(z_BRNC.dtype)), bias_BRNH.permute(0, 3, 1, 2)
