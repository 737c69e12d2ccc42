"""Conditioned transition in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.adaptive_layer_norm.reference import adaptive_layer_norm


def conditioned_transition(
    a: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    *,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.conditioned_transition.conditioned_transition`."""
    y = adaptive_layer_norm(a, scale, shift, statistics=statistics)
    swish, value = F.linear(y, weight_in.to(a.dtype)).chunk(2, dim=-1)
    update = F.linear(F.silu(swish) * value, weight_out.to(a.dtype))
    return a + torch.sigmoid(gate) * update
