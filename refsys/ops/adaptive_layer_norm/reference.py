"""Adaptive LayerNorm in plain PyTorch."""

import torch
from torch import Tensor

from refsys.ops.layer_norm.reference import layer_norm


def adaptive_layer_norm(
    a: Tensor, scale: Tensor, shift: Tensor, *, statistics: torch.dtype
) -> Tensor:
    """See `refsys.ops.adaptive_layer_norm.adaptive_layer_norm`."""
    normalized = layer_norm(a, None, None, statistics=statistics, epsilon=1e-5)
    return torch.sigmoid(scale) * normalized + shift
