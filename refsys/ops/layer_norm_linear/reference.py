"""LayerNorm and what reads it in plain PyTorch.

Shape suffixes: B batch, R row, N token, C channels, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.layer_norm.reference import layer_norm


def layer_norm_linear(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.layer_norm_linear.layer_norm_linear`."""
    normalized = layer_norm(x, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    if bias is not None:
        bias = F.pad(bias.to(x.dtype), (0, weight.shape[0] - bias.shape[0]))
    return F.linear(normalized, weight.to(x.dtype), bias)


def pair_bias(
    z_BRNC: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight_heads: Tensor,
    *,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.layer_norm_linear.pair_bias`."""
    bias_BRNH = layer_norm_linear(
        z_BRNC, norm_weight, norm_bias, weight_heads, None, statistics=statistics
    )
    return bias_BRNH.permute(0, 3, 1, 2)


def attention_projection(
    z_BRNC: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    weight_heads: Tensor,
    *,
    statistics: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See `refsys.ops.layer_norm_linear.attention_projection`."""
    normalized = layer_norm(z_BRNC, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    bias_BRNH = F.linear(normalized, weight_heads.to(z_BRNC.dtype))
    return F.linear(normalized, weight.to(z_BRNC.dtype)), bias_BRNH.permute(0, 3, 1, 2)
