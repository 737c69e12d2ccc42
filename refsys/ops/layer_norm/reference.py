"""LayerNorm in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    statistics: torch.dtype,
    epsilon: float,
) -> Tensor:
    """See `refsys.ops.layer_norm.layer_norm`."""
    scale, offset = (None if t is None else t.to(statistics) for t in (weight, bias))
    normalized = F.layer_norm(x.to(statistics), x.shape[-1:], scale, offset, epsilon)
    return normalized.to(x.dtype)
