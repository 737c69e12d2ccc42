"""Transition (Algorithm 11)."""

import torch
from torch import Tensor, nn

from refsys.model.initialization import he, zeros
from refsys.model.layers import KernelModule, LayerNorm
from refsys.ops.transition import TransitionWeights, transition
from refsys.precision import Precision


class Transition(KernelModule):
    """LayerNorm, SwiGLU widened by `factor` and a linear layer, applied to each position."""

    def __init__(self, width: int, factor: int, precision: Precision) -> None:
        super().__init__()
        dtype = precision.parameters
        self.norm = LayerNorm(width, precision)
        self.weight_in = nn.Parameter(torch.empty(2 * factor * width, width, dtype=dtype))
        self.weight_out = nn.Parameter(torch.empty(width, factor * width, dtype=dtype))
        self.initializers = {"weight_in": he, "weight_out": zeros}

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] → [..., width], the residual included."""
        weights = TransitionWeights(
            self.norm.weight, self.norm.bias, self.weight_in, self.weight_out
        )
        return transition(x, weights, statistics=self.norm.statistics, residual=True)
