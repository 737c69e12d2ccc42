"""Layers that a conditioning signal steers (Algorithms 25 and 26).

The signal broadcasts: what does not depend on the noise has one sample where activations have many,
and is computed once for all of them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsys.model.initialization import constant, he, lecun, stacked, zeros
from refsys.model.layers import Linear, ScaledLayerNorm
from refsys.ops.layer_norm import layer_norm
from refsys.precision import Precision

# sigmoid(-2) = 0.12: an update begins small.
_CLOSED = -2.0


class Steering(NamedTuple):
    """What a condition makes of an adaptive norm: computed once where the condition is shared."""

    scale: Tensor
    shift: Tensor


class AdaptiveLayerNorm(nn.Module):
    """Algorithm 26: sigmoid(Linear(c)) · LayerNorm(a) + Linear(c), c = LayerNorm(condition)."""

    def __init__(self, condition_width: int, width: int, precision: Precision) -> None:
        super().__init__()
        self.norm_condition = ScaledLayerNorm(condition_width, precision)
        self.linear_scale = Linear(
            condition_width, width, bias=True, initializer=zeros, precision=precision
        )
        self.linear_shift = Linear(condition_width, width, initializer=zeros, precision=precision)
        self.statistics = precision.norm_statistics

    def steer(self, condition: Tensor) -> Steering:
        """What [..., condition_width] says."""
        c = self.norm_condition(condition)
        return Steering(torch.sigmoid(self.linear_scale(c)), self.linear_shift(c))

    def forward(self, a: Tensor, steering: Steering) -> Tensor:
        """[..., width]; the two broadcast."""
        normalized = layer_norm(a, None, None, statistics=self.statistics)
        return steering.scale * normalized + steering.shift


class ZeroGate(nn.Module):
    """AdaLN-Zero: sigmoid(Linear(condition)) closes an update unless the condition opens it."""

    def __init__(self, condition_width: int, width: int, precision: Precision) -> None:
        super().__init__()
        self.linear = Linear(
            condition_width,
            width,
            bias=True,
            initializer=zeros,
            bias_initializer=constant(_CLOSED),
            precision=precision,
        )

    def forward(self, condition: Tensor) -> Tensor:
        """What the update is multiplied with."""
        return torch.sigmoid(self.linear(condition))


class TransitionSteering(NamedTuple):
    """What a condition makes of a conditioned transition."""

    norm: Steering
    gate: Tensor


class ConditionedTransition(nn.Module):
    """Algorithm 25: AdaLN, SwiGLU widened by `factor`, linear, zero gate."""

    def __init__(
        self, condition_width: int, width: int, precision: Precision, factor: int = 2
    ) -> None:
        super().__init__()
        wide = factor * width
        self.norm = AdaptiveLayerNorm(condition_width, width, precision)
        self.linear_in = Linear(
            width, 2 * wide, initializer=stacked((wide, he), (wide, lecun)), precision=precision
        )
        self.linear_out = Linear(wide, width, precision=precision)
        self.gate = ZeroGate(condition_width, width, precision)

    def steer(self, condition: Tensor) -> TransitionSteering:
        """What [..., condition_width] says."""
        return TransitionSteering(self.norm.steer(condition), self.gate(condition))

    def forward(self, a: Tensor, steering: TransitionSteering) -> Tensor:
        """[..., width], the residual included."""
        swish, value = self.linear_in(self.norm(a, steering.norm)).chunk(2, dim=-1)
        return a + steering.gate * self.linear_out(F.silu(swish) * value)
