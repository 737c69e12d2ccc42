"""Dropout and residual in plain PyTorch."""

import torch
from torch import Tensor


def dropout_residual(
    residual: Tensor, update: Tensor, keep: Tensor, *, rate: float, shared_axis: int
) -> Tensor:
    """See `refsys.ops.dropout_residual.dropout_residual`."""
    kept = keep.unsqueeze(shared_axis).to(update.dtype)
    return torch.addcmul(residual, update, kept, value=1 / (1 - rate))
