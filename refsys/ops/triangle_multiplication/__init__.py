"""Triangle multiplication (Algorithms 12 and 13) in three stages.

Projection, contraction and epilogue are separate so that a collective fits between any two: the
contraction needs all rows of a few channels where the others need all channels of a few rows.
"""

import torch
from torch import Tensor

from refsys.ops.backend import Implementation, Operator, flat_tensors
from refsys.ops.contract import check, check_dropout, check_norm, check_rank, nbytes
from refsys.ops.triangle_multiplication import reference, triton
from refsys.ops.triangle_multiplication.reference import StageWeights


def _contraction_flops(a: Tensor, b: Tensor, *, outgoing: bool) -> int:
    return 2 * a.numel() * b.shape[1 if outgoing else 2]


def _contraction_bytes(a: Tensor, b: Tensor, *, outgoing: bool) -> int:
    free, summed = (1, 2) if outgoing else (2, 1)
    return nbytes(a, b) + nbytes(a) // a.shape[summed] * b.shape[free]


def _linear_flops(z: Tensor, weight: Tensor) -> int:
    return 2 * (z.numel() // z.shape[-1]) * weight.numel()


_PROJECTION = Operator(
    "triangle_multiplication_projection",
    reference.projection,
    flops=lambda z, mask, weights, **_options: _linear_flops(z, weights.weight),
    minimum_bytes=lambda z, mask, weights, **_options: nbytes(z, z, z, z, mask, *weights),
    kernels={"triton": Implementation(triton.projection, triton.unsupported_reason)},
    weights=StageWeights,
    weights_position=2,
)
_CONTRACTION = Operator(
    "triangle_multiplication_contraction",
    reference.contraction,
    flops=_contraction_flops,
    minimum_bytes=_contraction_bytes,
    kernels={"triton": Implementation(triton.contract, triton.unsupported_contraction)},
)
_EPILOGUE = Operator(
    "triangle_multiplication_epilogue",
    reference.epilogue,
    flops=lambda x, gate, weights, *_arguments, **_options: _linear_flops(x, weights.weight),
    minimum_bytes=lambda x, *arguments, **_options: nbytes(x, x, *flat_tensors(arguments)),
    kernels={"triton": Implementation(triton.epilogue, triton.unsupported_reason)},
    weights=StageWeights,
    weights_position=2,
)


def projection(
    z: Tensor,
    mask: Tensor,
    weights: StageWeights,
    *,
    statistics: torch.dtype,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize a row slab and project it to both operands and the output gate.

    Args:
        z: [batch, row, token, c].
        mask: [batch, row, token] bool; False zeroes the operands there.
        weights: See `StageWeights`.
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        a, b and the output gate's logits, each [batch, row, token, c] in the dtype of `z`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("z", z, "batch row token c")
    check("mask", mask, z.shape[:-1], like=z, dtype=torch.bool)
    check_norm(z, weights.norm_weight, weights.norm_bias)
    check("weight", weights.weight, (5 * z.shape[-1], z.shape[-1]), like=z)
    return _PROJECTION(z, mask, weights, statistics=statistics, backend=backend)


def contraction(a: Tensor, b: Tensor, *, outgoing: bool, backend: str | None = None) -> Tensor:
    """Σₖ a[i, k] b[j, k] if outgoing, else Σₖ a[k, i] b[k, j], channel by channel.

    Args:
        a: [batch, i, k, channel] if outgoing, else [batch, k, i, channel]; any share of the
            channels.
        b: [batch, j, k, channel] if outgoing, else [batch, k, j, channel]; dtype of `a`.
        outgoing: Sum over the second token axis if True, over the first if False.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, i, j, channel] in the dtype of `a`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("a", a, "batch token token channel")
    check_rank("b", b, "batch token token channel")
    expected = list(a.shape)
    free = 1 if outgoing else 2
    expected[free] = b.shape[free]
    check("b", b, expected, like=a, dtype=a.dtype)
    return _CONTRACTION(a, b, outgoing=outgoing, backend=backend)


def epilogue(
    x: Tensor,
    gate: Tensor,
    weights: StageWeights,
    residual: Tensor | None = None,
    keep: Tensor | None = None,
    *,
    rate: float = 0.0,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """Residual + dropout(sigmoid(gate) · Linear(LayerNorm(x))): the pair representation's update.

    Args:
        x: [batch, row, token, c], the contraction's rows.
        gate: [batch, row, token, c], the projection's gate logits, dtype of `x`.
        weights: See `StageWeights`.
        residual: [batch, row, token, c], dtype of `x`; None adds nothing.
        keep: [batch, token, c] bool, one mask of dropout for all rows; needs a residual. None
            drops nothing.
        rate: Probability of dropping, in [0, 1).
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, row, token, c] in the dtype of `x`.

    Raises:
        ArgumentError: a shape, dtype or device, or the rate does not fit.
    """
    check_rank("x", x, "batch row token c")
    check("gate", gate, x.shape, like=x, dtype=x.dtype)
    check_norm(x, weights.norm_weight, weights.norm_bias)
    check("weight", weights.weight, (x.shape[-1], x.shape[-1]), like=x)
    check_dropout(residual, keep, rate, x.shape, like=x)
    return _EPILOGUE(
        x,
        gate,
        weights,
        residual,
        keep,
        rate=rate,
        statistics=statistics,
        backend=backend,
    )
