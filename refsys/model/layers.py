"""Linear layers and LayerNorms that all modules use."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsys.model.initialization import Initializer, lecun, ones, zeros
from refsys.ops.layer_norm import layer_norm
from refsys.ops.layer_norm_linear import LinearWeights, layer_norm_linear
from refsys.ops.weight_copies import prepare_for_kernels
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
        bias_initializer: Initializer = zeros,
        precision: Precision,
    ) -> None:
        super().__init__()
        dtype = precision.parameters
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype)) if bias else None
        self.initializers = {"weight": initializer} | ({"bias": bias_initializer} if bias else {})

    def forward(self, x: Tensor, norm: "LayerNorm | ScaledLayerNorm | None" = None) -> Tensor:
        """Return [..., out] in the dtype of `x`, of `x` or of `norm(x)` in one fused operation."""
        if norm is not None:
            weights = LinearWeights(norm.weight, norm.bias, self.weight, self.bias)
            return layer_norm_linear(x, weights, statistics=norm.statistics)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class KernelModule(nn.Module):
    """Module that passes its weight matrices uncast to fused operators, which cast them."""


def copy_kernel_weights(root: nn.Module, x: Tensor) -> None:
    """Cast the matrices of every `KernelModule` below to the dtype of `x`, if kernels read them.

    Matrices that are sharded over ranks are left out: they are gathered block by block, and cast by
    each kernel.
    """

    def matrices() -> Iterator[Tensor]:
        modules = (module for module in root.modules() if isinstance(module, KernelModule))
        parameters = (p for module in modules for p in module.parameters() if p.dim() == 2)
        yield from {id(p): p for p in parameters if not hasattr(p, "placements")}.values()

    prepare_for_kernels(matrices(), x)


class OneHotLinear(Linear):
    """Linear layer of concatenated one-hot codes and scalars, without one-hot tensors."""

    def lookup(self, codes: Tensor, first: int, dtype: torch.dtype) -> Tensor:
        """Return the columns `first` + code of the weight for integer `codes` [...]: [..., out]."""
        return F.embedding(codes.long() + first, self.weight.t()).to(dtype)

    def scaled(self, values: Tensor, column: int, dtype: torch.dtype) -> Tensor:
        """Return column `column` of the weight times scalar `values` [...]: [..., out]."""
        return values.to(dtype).unsqueeze(-1) * self.weight[:, column].to(dtype)


class LayerNorm(nn.Module):
    """LayerNorm with scale and offset; statistics in the dtype of the precision policy."""

    def __init__(self, width: int, precision: Precision) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=precision.parameters))
        self.bias = nn.Parameter(torch.empty(width, dtype=precision.parameters))
        self.initializers = {"weight": ones, "bias": zeros}
        self.statistics = precision.norm_statistics

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized tensor [..., width] in the dtype of `x`."""
        return layer_norm(x, self.weight, self.bias, statistics=self.statistics)


class ScaledLayerNorm(nn.Module):
    """LayerNorm with a scale and no offset, used by the diffusion module."""

    bias: None = None

    def __init__(self, width: int, precision: Precision) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=precision.parameters))
        self.initializers = {"weight": ones}
        self.statistics = precision.norm_statistics

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalized tensor [..., width] in the dtype of `x`."""
        return layer_norm(x, self.weight, None, statistics=self.statistics)
