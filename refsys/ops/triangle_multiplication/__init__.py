"""Triangle multiplication (Algorithms 12 and 13) in three stages.

Projection, contraction and epilogue are separate so that a collective fits between any two: the
contraction needs all rows of a few channels where the others need all channels of a few rows.
"""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_dropout, check_rank, nbytes
from refsys.ops.triangle_multiplication import reference, triton


def _linear_flops(z: Tensor, weight: Tensor) -> int:
    return 2 * (z.numel() // z.shape[-1]) * weight.numel()


_PROJECTION = Operator(
    "triangle_multiplication_projection",
    reference.projection,
    flops=lambda z, mask, norm_weight, norm_bias, weight, **_options: _linear_flops(z, weight),
    minimum_bytes=lambda z, mask, norm_weight, norm_bias, weight, **_options: nbytes(
        z, z, z, z, mask, norm_weight, norm_bias, weight
    ),
    kernels={"triton": Implementation(triton.projection, triton.why_not)},
)
_CONTRACTION = Operator(
    "triangle_multiplication_contraction",
    reference.contraction,
    flops=lambda a, b, **_options: 2 * a.numel() * a.shape[1],
    minimum_bytes=lambda a, b, **_options: nbytes(a, b, a),
    kernels={"triton": Implementation(triton.contract, triton.why_not_contraction)},
)
_EPILOGUE = Operator(
    "triangle_multiplication_epilogue",
    reference.epilogue,
    flops=lambda x, gate, norm_weight, norm_bias, weight, *_rest, **_options: _linear_flops(
        x, weight
    ),
    minimum_bytes=lambda x, *rest, **_options: nbytes(x, x, *rest),
    kernels={"triton": Implementation(triton.epilogue, triton.why_not)},
)


def projection(
    z: Tensor,
    mask: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    *,
    statistics: torch.dtype,
    backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes a row slab and projects it to both operands and the output gate.

    Args:
        z: [batch, row, token, c].
        mask: [batch, row, token] bool; False zeroes the operands there.
        norm_weight: [c] scale of the input LayerNorm.
        norm_bias: [c] offset of the input LayerNorm.
        weight: [5c, c]: values of a and b, gates of a and b, output gate.
        statistics: The dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        a, b and the output gate's logits, each [batch, row, token, c] in the dtype of `z`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("z", z, "batch row token c")
    check("mask", mask, z.shape[:-1], like=z, dtype=torch.bool)
    check("norm_weight", norm_weight, z.shape[-1:], like=z)
    check("norm_bias", norm_bias, z.shape[-1:], like=z)
    check("weight", weight, (5 * z.shape[-1], z.shape[-1]), like=z)
    return _PROJECTION(
        z, mask, norm_weight, norm_bias, weight, statistics=statistics, backend=backend
    )


def contraction(a: Tensor, b: Tensor, *, outgoing: bool, backend: str | None = None) -> Tensor:
    """Σₖ a[i, k] b[j, k] if outgoing, else Σₖ a[k, i] b[k, j], channel by channel.

    Args:
        a: [batch, token, token, channel], all tokens, any share of the channels.
        b: [batch, token, token, channel], dtype of `a`.
        outgoing: Which of the two.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, token i, token j, channel] in the dtype of `a`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("a", a, "batch token token channel")
    if a.shape[1] != a.shape[2]:
        raise ArgumentError(f"a has shape {tuple(a.shape)}; expected as many rows as columns")
    check("b", b, a.shape, like=a, dtype=a.dtype)
    return _CONTRACTION(a, b, outgoing=outgoing, backend=backend)


def epilogue(
    x: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
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
        norm_weight: [c] scale of the output LayerNorm.
        norm_bias: [c] offset of the output LayerNorm.
        weight: [c, c].
        residual: [batch, row, token, c], dtype of `x`; None adds nothing.
        keep: [batch, token, c] bool, one mask of dropout for all rows; needs a residual. None
            drops nothing.
        rate: Probability of dropping, in [0, 1).
        statistics: The dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, row, token, c] in the dtype of `x`.

    Raises:
        ArgumentError: a shape, dtype or device, or the rate does not fit.
    """
    check_rank("x", x, "batch row token c")
    check("gate", gate, x.shape, like=x, dtype=x.dtype)
    check("norm_weight", norm_weight, x.shape[-1:], like=x)
    check("norm_bias", norm_bias, x.shape[-1:], like=x)
    check("weight", weight, (x.shape[-1], x.shape[-1]), like=x)
    check_dropout(residual, keep, rate, x.shape, like=x)
    return _EPILOGUE(
        *(x, gate, norm_weight, norm_bias, weight, residual, keep),
        rate=rate,
        statistics=statistics,
        backend=backend,
    )
