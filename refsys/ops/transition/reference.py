"""Transition in plain PyTorch."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.layer_norm.reference import layer_norm


class TransitionWeights(NamedTuple):
    """Weights of `transition`.

    Attributes:
        norm_weight: [c] scale of the LayerNorm.
        norm_bias: [c] offset of the LayerNorm.
        weight_in: [2nc, c]: projections of gate and value.
        weight_out: [c, nc].
    """

    norm_weight: Tensor
    norm_bias: Tensor
    weight_in: Tensor
    weight_out: Tensor


def transition(
    x: Tensor, weights: TransitionWeights, *, statistics: torch.dtype, residual: bool = False
) -> Tensor:
    """See `refsys.ops.transition.transition`."""
    norm_weight, norm_bias, weight_in, weight_out = weights
    normalized = layer_norm(x, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    gate, value = F.linear(normalized, weight_in.to(x.dtype)).chunk(2, dim=-1)
    update = F.linear(F.silu(gate) * value, weight_out.to(x.dtype))
    return x + update if residual else update
