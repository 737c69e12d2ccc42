"""Causal attention with ALiBi on a CPU: torch's CPU flash kernel, with the bias of a block of rows.

It is one operator, as FlexAttention is on an accelerator, so that both appear as one in a trace.
The bias is scratch memory of a size that does not grow with the sequence.

Shape suffixes: B batch, T tokens, R a block of rows of T, H heads, D head width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import (
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from refsys.ops.workspace import declare, workspace

# Limit on the scratch memory of the bias, bytes; it determines the rows per block.
BIAS_BYTES = 2**26

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@torch.library.custom_op("foldperf::alibi_attention", mutates_args=())
def alibi_attention(
    q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, slopes_H: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute softmax(q kᵀ / √D + slope · (key − query)) v over keys up to the query.

    Args:
        q_BHTD: Queries, of any floating-point dtype.
        k_BHTD: Keys, of the same dtype.
        v_BHTD: Values, of the same dtype.
        slopes_H: Slope of each head, in the dtype of the softmax.

    Returns:
        The output [B, H, T, D] and the logsumexp of each query [B, H, T].
    """
    out_BHTD, logsumexp_BHT = _empty(q_BHTD, slopes_H)
    for rows, bias_1HRT in _biases(q_BHTD, slopes_H):
        out, logsumexp = _flash(q_BHTD[:, :, rows], k_BHTD, v_BHTD, attn_mask=bias_1HRT)
        out_BHTD[:, :, rows] = out
        logsumexp_BHT[:, :, rows] = logsumexp
    return out_BHTD, logsumexp_BHT


@alibi_attention.register_fake
def _(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, slopes_H: Tensor) -> tuple[Tensor, Tensor]:
    del k_BHTD, v_BHTD
    declare("alibi_attention.bias", _rows(q_BHTD, slopes_H) * _row_bytes(q_BHTD, slopes_H))
    return _empty(q_BHTD, slopes_H)


@torch.library.custom_op("foldperf::alibi_attention_backward", mutates_args=())
def alibi_attention_backward(
    grad_BHTD: Tensor,
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    out_BHTD: Tensor,
    logsumexp_BHT: Tensor,
    slopes_H: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients [B, H, T, D] of queries, keys and values; see `alibi_attention`."""
    grad_q, grad_k, grad_v = (_like(x).zero_() for x in (q_BHTD, k_BHTD, v_BHTD))
    for rows, bias_1HRT in _biases(q_BHTD, slopes_H):
        gradients = _flash_backward(
            grad_BHTD[:, :, rows],
            q_BHTD[:, :, rows],
            k_BHTD,
            v_BHTD,
            out_BHTD[:, :, rows],
            logsumexp_BHT[:, :, rows],
            0.0,
            False,
            attn_mask=bias_1HRT,
        )
        grad_q[:, :, rows] = gradients[0]
        grad_k += gradients[1]
        grad_v += gradients[2]
    return grad_q, grad_k, grad_v


@alibi_attention_backward.register_fake
def _(
    grad_BHTD: Tensor,
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    out_BHTD: Tensor,
    logsumexp_BHT: Tensor,
    slopes_H: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    del grad_BHTD, out_BHTD, logsumexp_BHT
    declare("alibi_attention.bias", _rows(q_BHTD, slopes_H) * _row_bytes(q_BHTD, slopes_H))
    return _like(q_BHTD), _like(k_BHTD), _like(v_BHTD)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    q_BHTD, k_BHTD, v_BHTD, slopes_H = inputs
    ctx.save_for_backward(q_BHTD, k_BHTD, v_BHTD, *output, slopes_H)


def _backward(ctx: Any, grad_BHTD: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*alibi_attention_backward(grad_BHTD, *ctx.saved_tensors), None)


alibi_attention.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.foldperf.alibi_attention)
def _flops(query: Any, key: Any, value: Any, *_args: Any, **_options: Any) -> int:
    return sdpa_flop_count(query, key, value)


@register_flop_formula(torch.ops.foldperf.alibi_attention_backward)
def _backward_flops(
    grad: Any, query: Any, key: Any, value: Any, *_args: Any, **_options: Any
) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def _like(x_BHTD: Tensor) -> Tensor:
    """Return an uninitialized tensor with heads next to width in memory, as flash kernels do."""
    return torch.empty_like(
        x_BHTD.transpose(1, 2), memory_format=torch.contiguous_format
    ).transpose(1, 2)


def _empty(q_BHTD: Tensor, slopes_H: Tensor) -> tuple[Tensor, Tensor]:
    return _like(q_BHTD), slopes_H.new_empty(q_BHTD.shape[:3])


def _row_bytes(q_BHTD: Tensor, slopes_H: Tensor) -> int:
    """Return the bytes of the bias of one query in all heads, and of its distances."""
    return (len(slopes_H) + 1) * q_BHTD.shape[2] * slopes_H.element_size()


def _rows(q_BHTD: Tensor, slopes_H: Tensor) -> int:
    """Return the number of queries in a block of the bias."""
    return min(q_BHTD.shape[2], max(1, BIAS_BYTES // _row_bytes(q_BHTD, slopes_H)))


def _biases(q_BHTD: Tensor, slopes_H: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows and their bias [1, H, R, T], −∞ for later keys, in memory that is reused."""
    heads, tokens, rows = len(slopes_H), q_BHTD.shape[2], _rows(q_BHTD, slopes_H)
    positions_T = torch.arange(tokens, dtype=slopes_H.dtype, device=slopes_H.device)
    shape = heads + 1, rows, tokens
    scratch = workspace("alibi_attention.bias", shape, dtype=slopes_H.dtype, device=slopes_H.device)
    for first in range(0, tokens, rows):
        last = min(first + rows, tokens)
        bias_HRT, distances_RT = scratch[:heads, : last - first], scratch[heads, : last - first]
        torch.sub(positions_T, positions_T[first:last].unsqueeze(1), out=distances_RT)
        distances_RT.masked_fill_(distances_RT > 0, -torch.inf)
        torch.mul(distances_RT, slopes_H.view(-1, 1, 1), out=bias_HRT)
        yield slice(first, last), bias_HRT.unsqueeze(0)
