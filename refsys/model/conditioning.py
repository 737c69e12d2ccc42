"""Layers that a conditioning signal steers (Algorithms 25 and 26).

The signal broadcasts: what does not depend on the noise has one sample where activations have many,
and is computed once for all of them.

Shape suffixes: B batch, D diffusion samples, R rows, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from refsys.model.initialization import constant, he, lecun, stacked, zeros
from refsys.model.layers import Linear, ScaledLayerNorm
from refsys.ops.adaptive_layer_norm import adaptive_layer_norm
from refsys.ops.conditioned_transition import conditioned_transition
from refsys.precision import Precision

# sigmoid(-2) = 0.12: an update begins small.
_CLOSED = -2.0


class Steering(NamedTuple):
    """What a condition makes of an adaptive norm: computed once where the condition is shared.

    Attributes:
        scale: Logits.
        shift: What is added.
    """

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
        return Steering(self.linear_scale(c), self.linear_shift(c))

    def forward(self, a_BDRC: Tensor, steering: Steering) -> Tensor:
        """[B, D, R, C]; the steering has one sample or all of them."""
        return adaptive_layer_norm(a_BDRC, *steering, statistics=self.statistics)


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
        return torch.sigmoid(self.logits(condition))

    def logits(self, condition: Tensor) -> Tensor:
        """Its logits."""
        return self.linear(condition)


class TransitionSteering(NamedTuple):
    """What a condition makes of a conditioned transition; the gate is one of logits."""

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
        return TransitionSteering(self.norm.steer(condition), self.gate.logits(condition))

    def forward(self, a_BDRC: Tensor, steering: TransitionSteering) -> Tensor:
        """[B, D, R, C], the residual included; the steering has one sample or all of them."""
        return conditioned_transition(
            a_BDRC,
            *steering.norm,
            steering.gate,
            self.linear_in.weight,
            self.linear_out.weight,
            statistics=self.norm.statistics,
        )
