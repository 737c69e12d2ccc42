"""Layers with adaptive conditioning (Algorithms 25 and 26).

The conditioning broadcasts over samples: if it does not depend on the noise it has one sample, and
is computed once for all samples of the activations.

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

# sigmoid(-2) = 0.12: updates are small at initialization.
_CLOSED = -2.0


class NormConditioning(NamedTuple):
    """Conditioning of an adaptive LayerNorm.

    Attributes:
        scale: Logits of the scale.
        shift: Offset.
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

    def condition(self, condition: Tensor) -> NormConditioning:
        """Compute scale logits and shift [..., width] from a condition [..., condition_width]."""
        c = self.norm_condition(condition)
        return NormConditioning(self.linear_scale(c), self.linear_shift(c))

    def forward(self, a_BDRC: Tensor, conditioning: NormConditioning) -> Tensor:
        """Return [B, D, R, C]; the conditioning has one sample or D."""
        return adaptive_layer_norm(a_BDRC, *conditioning, statistics=self.statistics)


class ZeroGate(nn.Module):
    """AdaLN-Zero gate sigmoid(Linear(condition)), nearly closed at initialization."""

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
        """Return the factor of the update."""
        return torch.sigmoid(self.logits(condition))

    def logits(self, condition: Tensor) -> Tensor:
        """Return the logits of the gate."""
        return self.linear(condition)


class TransitionConditioning(NamedTuple):
    """Conditioning of a conditioned transition.

    Attributes:
        norm: Conditioning of the adaptive LayerNorm.
        gate: Logits of the output gate.
    """

    norm: NormConditioning
    gate: Tensor


class ConditionedTransition(nn.Module):
    """Algorithm 25: AdaLN, SwiGLU widened by `factor`, linear, zero gate."""

    def __init__(
        self, condition_width: int, width: int, precision: Precision, factor: int = 2
    ) -> None:
        super().__init__()
        hidden = factor * width
        self.norm = AdaptiveLayerNorm(condition_width, width, precision)
        self.linear_in = Linear(
            width,
            2 * hidden,
            initializer=stacked((hidden, he), (hidden, lecun)),
            precision=precision,
        )
        self.linear_out = Linear(hidden, width, precision=precision)
        self.gate = ZeroGate(condition_width, width, precision)

    def condition(self, condition: Tensor) -> TransitionConditioning:
        """Compute the conditioning from a condition [..., condition_width]."""
        return TransitionConditioning(self.norm.condition(condition), self.gate.logits(condition))

    def forward(self, a_BDRC: Tensor, conditioning: TransitionConditioning) -> Tensor:
        """Return [B, D, R, C] with the residual; the conditioning has one sample or D."""
        return conditioned_transition(
            a_BDRC,
            *conditioning.norm,
            conditioning.gate,
            self.linear_in.weight,
            self.linear_out.weight,
            statistics=self.norm.statistics,
        )
