"""Gated attention whole, as one operator to torch, made of other operators' kernels.

Forward keeps its input, what attention gave and what softmax took away. Backward projects again,
and what flows into q, k, v and the gates stays in one tensor until the projection's own backward.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.gated_linear import triton as gated
from refsys.ops.layer_norm_linear import triton as projection
from refsys.ops.layer_norm_linear.triton import Parameters
from refsys.ops.planes.triton import fold
from refsys.ops.triangle_attention import triton as attention
from refsys.ops.triangle_attention.triton import Inputs
from refsys.ops.triton_backend import custom_operator, why_not_triton
from refsys.ops.workspace import workspace


def why_not_triangle(
    z: Tensor,
    mask: Tensor,
    *parameters: Tensor | None,
    rate: float,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    del rate
    heads = parameters[3]
    assert heads is not None
    return _why_not(z, z, heads, (mask, *parameters), softmax, statistics)


def why_not_pair_bias(
    s: Tensor,
    z: Tensor,
    mask: Tensor,
    *parameters: Tensor,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    return _why_not(s, z, parameters[6], (mask, *parameters), softmax, statistics)


def _why_not(
    x: Tensor,
    pair: Tensor,
    heads: Tensor,
    others: tuple[Tensor | None, ...],
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> str | None:
    if softmax != torch.float32:
        return f"softmax is taken in float32, not in {softmax}"
    if x.shape[-1] // heads.shape[0] > attention.MAXIMUM_WIDTH:
        return f"heads are wider than {attention.MAXIMUM_WIDTH}"
    reason = projection.why_not_heads(pair, heads, statistics=statistics)
    return reason or why_not_triton(x, *(each for each in others if each is not None))


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
) -> Tensor:
    """See `refsys.ops.gated_attention.gated_triangle_attention`."""
    del softmax, statistics
    own = norm_weight, norm_bias, weight, None, weight_heads, weight_out
    out: Tensor = forward(z, mask, *own, None, None, None, keep, rate)[0]
    return out


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
) -> Tensor:
    """See `refsys.ops.gated_attention.attention_pair_bias`."""
    del softmax, statistics
    own = norm_weight, norm_bias, weight, bias, weight_heads, weight_out
    pair = z, pair_norm_weight, pair_norm_bias
    out: Tensor = forward(s.unsqueeze(1), mask.unsqueeze(1), *own, *pair, None, 0.0)[0]
    return out.squeeze(1)


@custom_operator("gated_attention")
def forward(
    x: Tensor,
    mask: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_heads: Tensor,
    weight_out: Tensor,
    pair: Tensor | None,
    pair_norm_weight: Tensor | None,
    pair_norm_bias: Tensor | None,
    keep: Tensor | None,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result; what attention gave, [batch, row, token, head, d]; what softmax took away.

    The heads' bias comes from `pair`, with a LayerNorm of its own, or else from x itself.
    """
    own, other = _parameters(
        *(norm_weight, norm_bias, weight, bias, weight_heads),
        *(pair_norm_weight, pair_norm_bias),
        beside=pair is not None,
    )
    qkvg, heads = _project(x, pair, own, other)
    attended, softmax = attention.run(_inputs(qkvg, heads, mask))
    gate = qkvg[..., 3 * x.shape[-1] :]
    out = gated.finish(attended.flatten(-2), gate, weight_out, x, keep, rate)
    return out, attended, softmax


@custom_operator("gated_attention_backward")
def backward(
    grad: Tensor,
    x: Tensor,
    mask: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_heads: Tensor,
    weight_out: Tensor,
    pair: Tensor | None,
    pair_norm_weight: Tensor | None,
    pair_norm_bias: Tensor | None,
    keep: Tensor | None,
    attended: Tensor,
    softmax: Tensor,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, norm [2, c], weight, bias, heads, output weight, pair, its norm [2, c]."""
    own, other = _parameters(
        *(norm_weight, norm_bias, weight, bias, weight_heads),
        *(pair_norm_weight, pair_norm_bias),
        beside=pair is not None,
    )
    width = x.shape[-1]
    qkvg, heads = _project(x, pair, own, other)
    inputs = _inputs(qkvg, heads, mask)
    dqkvg = workspace(
        "gated_attention.dprojected", qkvg.shape, dtype=qkvg.dtype, device=qkvg.device
    )
    delta = torch.empty_like(softmax[0])
    through, jobs = gated.finish_backward(
        *(grad, attended.flatten(-2), qkvg[..., 3 * width :], weight_out, keep, rate),
        *(dqkvg[..., 3 * width :], delta, heads.shape[1]),
    )
    towards = through.x.view(attended.shape)
    attention.run_backward_tokens(towards, inputs, softmax, delta, _split(dqkvg, heads.shape[1]))
    dheads, more = attention.run_backward_bias(towards, inputs, softmax, delta)
    fold(*jobs, *more)
    del qkvg, inputs, towards, jobs, more

    gradients, jobs = projection.project_backward(dqkvg, dheads, grad, x, own)
    if pair is None:
        fold(*jobs)
        nothing = x.new_empty((0,)), x.new_empty((0,))
        return *gradients, through.weight, *nothing
    towards_pair, more = projection.project_backward(dqkvg, dheads, None, pair, other)
    fold(*jobs, *more)
    return (
        *gradients[:4],
        towards_pair.heads,
        through.weight,
        towards_pair.x,
        towards_pair.norm,
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    *tensors, ctx.rate = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, grad: Tensor | None, *_unused: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 13
    saved = ctx.saved_tensors
    found = backward(grad, *saved, ctx.rate)
    dx, dnorm, dweight, dbias, dheads, dout, dpair, dpair_norm = found
    bias, pair = saved[5], saved[8]
    return (
        *(dx, None, dnorm[0], dnorm[1], dweight, None if bias is None else dbias, dheads, dout),
        *((None,) * 3 if pair is None else (dpair, dpair_norm[0], dpair_norm[1])),
        *(None, None),
    )


forward.register_autograd(_backward, setup_context=_setup_context)


def _products(x: Any, *parameters: Any) -> int:
    """Of forward; `parameters` are what comes after x and the mask."""
    weight, heads, weight_out, pair = parameters[2], parameters[4], parameters[5], parameters[6]
    rows = math.prod(x[:-1])
    linear = rows * (math.prod(weight) + math.prod(weight_out))
    linear += math.prod((pair or x)[:-1]) * math.prod(heads)
    return 2 * linear + 4 * math.prod(x) * int(x[2])


@register_flop_formula(torch.ops.foldperf.gated_attention)
def _flops(x: Any, _mask: Any, *parameters: Any, **_options: Any) -> int:
    return _products(x, *parameters)


@register_flop_formula(torch.ops.foldperf.gated_attention_backward)
def _backward_flops(_grad: Any, x: Any, _mask: Any, *parameters: Any, **_options: Any) -> int:
    """What is made again is not counted."""
    return 2 * _products(x, *parameters)


def _parameters(
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_heads: Tensor,
    pair_norm_weight: Tensor | None,
    pair_norm_bias: Tensor | None,
    *,
    beside: bool,
) -> tuple[Parameters, Parameters]:
    """What reads x, and what reads the pair tensor beside it."""
    heads = None if beside else weight_heads
    own = Parameters(norm_weight, norm_bias, weight, bias, heads)
    return own, Parameters(pair_norm_weight, pair_norm_bias, None, None, weight_heads)


def _project(
    x: Tensor, pair: Tensor | None, own: Parameters, other: Parameters
) -> tuple[Tensor, Tensor]:
    """Queries, keys, values and gates [batch, row, token, 4c], and the bias of each head."""
    qkvg, heads = projection.project(x, own)
    return qkvg, heads if pair is None else projection.project(pair, other)[1]


def _split(qkvg: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views of queries, keys and values, [batch, row, token, head, d]."""
    q, k, v, _gate = qkvg.unflatten(-1, (4, heads, -1)).unbind(3)
    return q, k, v


def _inputs(qkvg: Tensor, heads: Tensor, mask: Tensor) -> Inputs:
    return Inputs(*_split(qkvg, heads.shape[1]), heads, mask)
