"""The three stages of triangle multiplication in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.dropout_residual.reference import add_dropped
from refsys.ops.layer_norm.reference import layer_norm


def projection(
    z: Tensor,
    mask: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    *,
    statistics: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `refsys.ops.triangle_multiplication.projection`."""
    normalized = layer_norm(z, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    values_a, values_b, gates_a, gates_b, gate = F.linear(normalized, weight.to(z.dtype)).chunk(
        5, dim=-1
    )
    kept = mask.unsqueeze(-1)
    return (
        values_a * torch.sigmoid(gates_a) * kept,
        values_b * torch.sigmoid(gates_b) * kept,
        gate,
    )


def contraction(a: Tensor, b: Tensor, *, outgoing: bool) -> Tensor:
    """See `refsys.ops.triangle_multiplication.contraction`."""
    return torch.einsum("bikc,bjkc->bijc" if outgoing else "bkic,bkjc->bijc", a, b)


def epilogue(
    x: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    keep: Tensor | None,
    *,
    rate: float,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.triangle_multiplication.epilogue`."""
    normalized = layer_norm(x, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    update = torch.sigmoid(gate) * F.linear(normalized, weight.to(x.dtype))
    return add_dropped(residual, update, keep, rate=rate)
