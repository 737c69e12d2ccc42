"""Outer product mean in plain PyTorch. It stores tokens × tokens × h × h products."""

import torch
import torch.nn.functional as F
from torch import Tensor


def outer_product_mean(
    a: Tensor,
    b: Tensor,
    mask_a: Tensor,
    mask_b: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    accumulation: torch.dtype,
) -> Tensor:
    """See `refsys.ops.outer_product_mean.outer_product_mean`."""
    products = torch.einsum("bsiu,bsjv->bijuv", a, b).flatten(-2)
    update = F.linear(products, weight.to(a.dtype), bias.to(a.dtype))
    count = torch.einsum("bsi,bsj->bij", mask_a.to(accumulation), mask_b.to(accumulation))
    return (update.to(accumulation) / (count.unsqueeze(-1) + 1e-3)).to(a.dtype)
