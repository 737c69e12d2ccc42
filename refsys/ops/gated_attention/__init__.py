"""Gated attention whole, from LayerNorm to residual, where one rank holds all tokens.

Triangle attention (Algorithms 14 and 15) and attention with pair bias (Algorithm 24): what
`layer_norm_linear`, `triangle_attention` and `gated_linear` do one after the other, as one operator
that keeps its input, what attention gave and one number for each query, and makes the rest again.
"""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_dropout, check_rank, nbytes
from refsys.ops.gated_attention import reference, triton


def _triangle_flops(
    z: Tensor,
    _mask: Tensor,
    _scale: Tensor,
    _offset: Tensor,
    weight: Tensor,
    weight_heads: Tensor,
    weight_out: Tensor,
    *_rest: object,
    **_options: object,
) -> int:
    positions, tokens = z.numel() // z.shape[-1], z.shape[2]
    weights = weight.numel() + weight_heads.numel() + weight_out.numel()
    return 2 * positions * weights + 4 * z.numel() * tokens


def _pair_bias_flops(s: Tensor, z: Tensor, *parameters: Tensor, **_options: object) -> int:
    rows, tokens = s.numel() // s.shape[-1], s.shape[1]
    weight, weight_heads, weight_out = parameters[3], parameters[7], parameters[8]
    linear = 2 * rows * (weight.numel() + weight_out.numel())
    return linear + 2 * z.numel() * weight_heads.shape[0] + 4 * s.numel() * tokens


_TRIANGLE = Operator(
    "gated_triangle_attention",
    reference.gated_triangle_attention,
    flops=_triangle_flops,
    minimum_bytes=lambda z, *rest, **_options: nbytes(z, z, *rest),
    kernels={"triton": Implementation(triton.gated_triangle_attention, triton.why_not_triangle)},
    scores=lambda z, _mask, _scale, _offset, _weight, heads, *_rest, **_options: (
        z.numel() // z.shape[-1] * z.shape[2] * heads.shape[0]
    ),
)
_PAIR_BIAS = Operator(
    "attention_pair_bias",
    reference.attention_pair_bias,
    flops=_pair_bias_flops,
    minimum_bytes=lambda s, *rest, **_options: nbytes(s, s, *rest),
    kernels={"triton": Implementation(triton.attention_pair_bias, triton.why_not_pair_bias)},
    scores=lambda s, z, *parameters, **_options: z.numel() // z.shape[-1] * parameters[7].shape[0],
)


def gated_triangle_attention(
    z: Tensor,
    mask: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    weight_heads: Tensor,
    weight_out: Tensor,
    keep: Tensor | None,
    *,
    rate: float,
    softmax: torch.dtype,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """Triangle attention of the starting node; of the ending node, on the transposed tensor.

    Args:
        z: [batch, token, token, c]; strides are free.
        mask: [batch, token, token] bool; False removes the key from its row.
        norm_weight: [c] scale of the LayerNorm.
        norm_bias: [c] offset of the LayerNorm.
        weight: [4c, c]: queries, keys, values and gates.
        weight_heads: [head, c]: the bias that rows share.
        weight_out: [c, c].
        keep: [batch, token, c] bool, one mask of dropout for all rows; None drops nothing.
        rate: Probability of dropping, in [0, 1).
        softmax: The dtype of logits and probabilities.
        statistics: The dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        z with the update added; it lies as z does.

    Raises:
        ArgumentError: a shape, dtype or device, or the rate does not fit.
    """
    check_rank("z", z, "batch token token c")
    if z.shape[1] != z.shape[2]:
        raise ArgumentError(f"z has shape {tuple(z.shape)}; expected as many rows as columns")
    width = z.shape[-1]
    check("mask", mask, z.shape[:-1], like=z, dtype=torch.bool)
    _check_parameters(z, norm_weight, norm_bias, weight, weight_out)
    _check_heads(weight_heads, width, width, z)
    check_dropout(z, keep, rate, z.shape, like=z)
    return _TRIANGLE(
        *(z, mask, norm_weight, norm_bias, weight, weight_heads, weight_out, keep),
        rate=rate,
        softmax=softmax,
        statistics=statistics,
        backend=backend,
    )


def attention_pair_bias(
    s: Tensor,
    z: Tensor,
    mask: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    pair_norm_weight: Tensor,
    pair_norm_bias: Tensor,
    weight_heads: Tensor,
    weight_out: Tensor,
    *,
    softmax: torch.dtype,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """Tokens attend to all tokens, biased by their row of the pair tensor.

    Args:
        s: [batch, token, c_s].
        z: [batch, token, token, c_z], dtype of `s`; strides are free.
        mask: [batch, token] bool; False removes the key.
        norm_weight: [c_s] scale of the LayerNorm of s.
        norm_bias: [c_s] offset of the LayerNorm of s.
        weight: [4c_s, c_s]: queries, keys, values and gates.
        bias: [c_s] of the queries.
        pair_norm_weight: [c_z] scale of the LayerNorm of z.
        pair_norm_bias: [c_z] offset of the LayerNorm of z.
        weight_heads: [head, c_z].
        weight_out: [c_s, c_s].
        softmax: The dtype of logits and probabilities.
        statistics: The dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        s with the update added.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("s", s, "batch token c")
    batch, tokens, width = s.shape
    check_rank("z", z, "batch token token c")
    check("z", z, (batch, tokens, tokens, z.shape[-1]), like=s, dtype=s.dtype)
    check("mask", mask, (batch, tokens), like=s, dtype=torch.bool)
    _check_parameters(s, norm_weight, norm_bias, weight, weight_out)
    check("bias", bias, (width,), like=s)
    check("pair_norm_weight", pair_norm_weight, z.shape[-1:], like=s)
    check("pair_norm_bias", pair_norm_bias, z.shape[-1:], like=s)
    _check_heads(weight_heads, z.shape[-1], width, s)
    return _PAIR_BIAS(
        *(s, z, mask, norm_weight, norm_bias, weight, bias),
        *(pair_norm_weight, pair_norm_bias, weight_heads, weight_out),
        softmax=softmax,
        statistics=statistics,
        backend=backend,
    )


def _check_parameters(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, weight_out: Tensor
) -> None:
    width = x.shape[-1]
    check("norm_weight", norm_weight, (width,), like=x)
    check("norm_bias", norm_bias, (width,), like=x)
    check("weight", weight, (4 * width, width), like=x)
    check("weight_out", weight_out, (width, width), like=x)


def _check_heads(weight_heads: Tensor, pair_width: int, width: int, like: Tensor) -> None:
    check_rank("weight_heads", weight_heads, "head c")
    heads = weight_heads.shape[0]
    check("weight_heads", weight_heads, (heads, pair_width), like=like)
    if not heads or width % heads:
        raise ArgumentError(f"weight_heads has {heads} heads; {width} channels do not divide by it")
