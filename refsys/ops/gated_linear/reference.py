"""A gated linear layer in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.dropout_residual.reference import add_dropped


def gated_linear(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    keep: Tensor | None,
    *,
    rate: float,
) -> Tensor:
    """See `refsys.ops.gated_linear.gated_linear`."""
    update = F.linear(x * torch.sigmoid(gate), weight.to(x.dtype))
    return add_dropped(residual, update, keep, rate=rate)
