"""Pair-weighted averaging in plain PyTorch."""

import torch
from torch import Tensor


def pair_weighted_averaging(
    v: Tensor, logits: Tensor, mask: Tensor, *, softmax: torch.dtype
) -> Tensor:
    """See `refsys.ops.pair_weighted_averaging.pair_weighted_averaging`."""
    masked = logits.to(softmax).masked_fill(~mask[:, None, :, None], torch.finfo(softmax).min)
    weights = masked.softmax(dim=2).to(v.dtype) * mask[:, None, :, None]
    return torch.einsum("bijh,bsjhd->bsihd", weights, v)
