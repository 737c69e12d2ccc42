"""Dropout and residual in plain PyTorch."""

import torch
from torch import Tensor


def dropout_residual(
    residual: Tensor, update: Tensor, keep: Tensor, *, rate: float, shared_axis: int
) -> Tensor:
    """See `refsys.ops.dropout_residual.dropout_residual`."""
    mask = keep.unsqueeze(shared_axis).to(update.dtype)
    return torch.addcmul(residual, update, mask, value=dropout_scale(rate))


def dropout_scale(rate: float) -> float:
    """Return the factor of the elements that dropout keeps."""
    return 1 / (1 - rate)


def add_dropped(
    residual: Tensor | None, update: Tensor, keep: Tensor | None, *, rate: float
) -> Tensor:
    """Return residual + update · keep / (1 − rate), without absent terms; rows share the mask."""
    if residual is None:
        return update
    if keep is None:
        return residual + update
    return dropout_residual(residual, update, keep, rate=rate, shared_axis=-3)
