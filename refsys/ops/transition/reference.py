"""Transition in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.layer_norm.reference import layer_norm


def transition(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    *,
    statistics: torch.dtype,
    residual: bool = False,
) -> Tensor:
    """See `refsys.ops.transition.transition`."""
    normalized = layer_norm(x, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    gate, value = F.linear(normalized, weight_in.to(x.dtype)).chunk(2, dim=-1)
    update = F.linear(F.silu(gate) * value, weight_out.to(x.dtype))
    return x + update if residual else update
