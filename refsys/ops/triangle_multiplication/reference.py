"""The three stages of triangle multiplication in plain PyTorch."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.dropout_residual.reference import add_dropped
from refsys.ops.layer_norm.reference import layer_norm


class StageWeights(NamedTuple):
    """Weights of `projection` or of `epilogue`.

    Attributes:
        norm_weight: [c] scale of the LayerNorm.
        norm_bias: [c] offset of the LayerNorm.
        weight: [5c, c] in the projection: values of a and b, gates of a and b, output gate; [c, c]
            in the epilogue.
    """

    norm_weight: Tensor
    norm_bias: Tensor
    weight: Tensor


def projection(
    z: Tensor, mask: Tensor, weights: StageWeights, *, statistics: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """See `refsys.ops.triangle_multiplication.projection`."""
    norm_weight, norm_bias, weight = weights
    normalized = layer_norm(z, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    values_a, values_b, gates_a, gates_b, gate = F.linear(normalized, weight.to(z.dtype)).chunk(
        5, dim=-1
    )
    keep = mask.unsqueeze(-1)
    return (
        values_a * torch.sigmoid(gates_a) * keep,
        values_b * torch.sigmoid(gates_b) * keep,
        gate,
    )


def contraction(a: Tensor, b: Tensor, *, outgoing: bool) -> Tensor:
    """See `refsys.ops.triangle_multiplication.contraction`."""
    return torch.einsum("bikc,bjkc->bijc" if outgoing else "bkic,bkjc->bijc", a, b)


def epilogue(
    x: Tensor,
    gate: Tensor,
    weights: StageWeights,
    residual: Tensor | None,
    keep: Tensor | None,
    *,
    rate: float,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.triangle_multiplication.epilogue`."""
    norm_weight, norm_bias, weight = weights
    normalized = layer_norm(x, norm_weight, norm_bias, statistics=statistics, epsilon=1e-5)
    update = torch.sigmoid(gate) * F.linear(normalized, weight.to(x.dtype))
    return add_dropped(residual, update, keep, rate=rate)
