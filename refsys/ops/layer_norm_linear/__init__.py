"""LayerNorm and the linear layers that read it.

What attention begins with: queries, keys, values and gates of each position, and, head by head, the
bias that all rows share.
"""

import torch
from torch import Tensor

from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_rank, nbytes
from refsys.ops.layer_norm_linear import reference, triton


def _rows(x: Tensor) -> int:
    return x.numel() // x.shape[-1]


def _flops(x: Tensor, *weights: Tensor) -> int:
    return sum(2 * _rows(x) * weight.numel() for weight in weights)


def _bytes(x: Tensor, *parameters: Tensor | None, out: int) -> int:
    return nbytes(x, *parameters) + _rows(x) * out * x.element_size()


_LINEAR = Operator(
    "layer_norm_linear",
    reference.layer_norm_linear,
    flops=lambda x, scale, offset, weight, bias, **_options: _flops(x, weight),
    minimum_bytes=lambda x, scale, offset, weight, bias, **_options: _bytes(
        *(x, scale, offset, weight, bias), out=weight.shape[0]
    ),
    kernels={"triton": Implementation(triton.layer_norm_linear, triton.why_not)},
)
_PAIR_BIAS = Operator(
    "pair_bias",
    reference.pair_bias,
    flops=lambda z, scale, offset, heads, **_options: _flops(z, heads),
    minimum_bytes=lambda z, scale, offset, heads, **_options: _bytes(
        *(z, scale, offset, heads), out=heads.shape[0]
    ),
    kernels={"triton": Implementation(triton.pair_bias, triton.why_not_heads)},
)
_PROJECTION = Operator(
    "attention_projection",
    reference.attention_projection,
    flops=lambda z, scale, offset, weight, heads, **_options: _flops(z, weight, heads),
    minimum_bytes=lambda z, scale, offset, weight, heads, **_options: _bytes(
        *(z, scale, offset, weight, heads), out=weight.shape[0] + heads.shape[0]
    ),
    kernels={"triton": Implementation(triton.attention_projection, triton.why_not_heads)},
)


def layer_norm_linear(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """LayerNorm(x) Wᵀ (+ b), at any width and any number of rows.

    Args:
        x: [..., c]; strides are free.
        norm_weight: [c] scale of the LayerNorm; None scales by one.
        norm_bias: [c] offset of the LayerNorm; None adds nothing.
        weight: [o, c].
        bias: [b] for the first b ≤ o of what comes out; None adds nothing.
        statistics: The dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [..., o] in the dtype of `x`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    _check_norm(x, norm_weight, norm_bias)
    _check_matrix("weight", weight, x)
    if bias is not None:
        check("bias", bias, (min(bias.numel(), weight.shape[0]),), like=x)
    return _LINEAR(x, norm_weight, norm_bias, weight, bias, statistics=statistics, backend=backend)


def pair_bias(
    z: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight_heads: Tensor,
    *,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """The bias that a pair tensor gives each head of attention: LayerNorm(z) Wᵀ, head by head.

    Args:
        z: [batch, row, token, c]; strides are free.
        norm_weight: [c] scale of the LayerNorm; None scales by one.
        norm_bias: [c] offset of the LayerNorm; None adds nothing.
        weight_heads: [head, c].
        statistics: The dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, head, row, token] in the dtype of `z`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    check_rank("z", z, "batch row token c")
    _check_norm(z, norm_weight, norm_bias)
    _check_matrix("weight_heads", weight_heads, z)
    return _PAIR_BIAS(
        z, norm_weight, norm_bias, weight_heads, statistics=statistics, backend=backend
    )


def attention_projection(
    z: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    weight_heads: Tensor,
    *,
    statistics: torch.dtype,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """What triangle attention reads: z is normalized once for both.

    Args:
        z: [batch, row, token, c]; strides are free.
        norm_weight: [c] scale of the LayerNorm.
        norm_bias: [c] offset of the LayerNorm.
        weight: [o, c]: queries, keys, values and gates, one after the other.
        weight_heads: [head, c].
        statistics: The dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, row, token, o] and [batch, head, row, token], in the dtype of `z`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    check_rank("z", z, "batch row token c")
    _check_norm(z, norm_weight, norm_bias)
    _check_matrix("weight", weight, z)
    _check_matrix("weight_heads", weight_heads, z)
    return _PROJECTION(
        z, norm_weight, norm_bias, weight, weight_heads, statistics=statistics, backend=backend
    )


def _check_norm(x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None) -> None:
    for name, each in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if each is not None:
            check(name, each, x.shape[-1:], like=x)


def _check_matrix(name: str, weight: Tensor, x: Tensor) -> None:
    check_rank(name, weight, "out c")
    check(name, weight, (weight.shape[0], x.shape[-1]), like=x)
