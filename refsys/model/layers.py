"""The linear layer and LayerNorm that every module is made of."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsys.model.initialization import Initializer, lecun, ones, zeros
from refsys.ops.layer_norm import layer_norm
from refsys.precision import Precision


class Linear(nn.Module):
    """x Wᵀ (+ b). The weights are cast to the dtype of `x` where they are used."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        initializer: Initializer = lecun,
        precision: Precision,
    ) -> None:
        super().__init__()
        dtype = precision.parameters
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype)) if bias else None
        self.initializers = {"weight": initializer} | ({"bias": zeros} if bias else {})

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., out] in the dtype of `x`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.Module):
    """LayerNorm with scale and offset; statistics in the policy's dtype."""

    def __init__(self, width: int, precision: Precision) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=precision.parameters))
        self.bias = nn.Parameter(torch.empty(width, dtype=precision.parameters))
        self.initializers = {"weight": ones, "bias": zeros}
        self.statistics = precision.norm_statistics

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] → [..., width] in the dtype of `x`."""
        return layer_norm(x, self.weight, self.bias, statistics=self.statistics)
