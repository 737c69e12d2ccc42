"""Dropout and residual in plain PyTorch."""

import torch
from torch import Tensor

from refsys.streams import Draw


def dropout_residual(
    residual: Tensor,
    update: Tensor,
    *,
    rate: float,
    draw: Draw | None,
    shared_axis: int,
    start: int,
) -> Tensor:
    """See `refsys.ops.dropout_residual.dropout_residual`."""
    if draw is None:
        return residual + update
    kept = update.shape[-2 if shared_axis == -3 else -3]
    channels = update.shape[-1]
    uniform = draw.uniform_on(update.device, kept * channels, start * channels)
    keep = (uniform >= rate).to(update.dtype).reshape(-1, kept, channels).unsqueeze(shared_axis)
    return torch.addcmul(residual, update, keep, value=1 / (1 - rate))
