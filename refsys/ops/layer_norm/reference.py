"""LayerNorm in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, statistics: torch.dtype, epsilon: float
) -> Tensor:
    """See `refsys.ops.layer_norm.layer_norm`."""
    normalized = F.layer_norm(
        x.to(statistics), x.shape[-1:], weight.to(statistics), bias.to(statistics), epsilon
    )
    return normalized.to(x.dtype)
