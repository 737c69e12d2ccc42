"""Fused gated attention as one custom operator, composed of other operators' kernels.

Forward saves its input, the attention output and per-query softmax statistics. Backward repeats the
projection; the gradients of q, k, v and the gates stay in one tensor until the projection's own
backward.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.backend import flat_tensors
from refsys.ops.gated_attention.reference import AttentionPairBiasWeights, TriangleAttentionWeights
from refsys.ops.gated_linear import triton as gated
from refsys.ops.layer_norm_linear import triton as projection
from refsys.ops.layer_norm_linear.reference import PairBiasWeights
from refsys.ops.planes.triton import reduce
from refsys.ops.triangle_attention import triton as attention
from refsys.ops.triangle_attention.triton import Inputs
from refsys.ops.triton_backend import custom_operator, unsupported_by_triton
from refsys.ops.workspace import workspace


class _Arguments(NamedTuple):
    """Tensors of the custom operator, in the order of its schema; shapes in a FLOP formula.

    Attributes:
        x: [batch, row, token, c], the input of the projection and the residual.
        mask: [batch, row, token] bool.
        norm_weight: [c].
        norm_bias: [c].
        weight: [4c, c].
        bias: [c] of the queries, or None.
        weight_heads: [head, c], or [head, c_z] with a pair tensor.
        weight_out: [c, c].
        pair: [batch, token, token, c_z] that the heads' bias comes from, or None: from x.
        pair_norm_weight: [c_z], or None.
        pair_norm_bias: [c_z], or None.
        keep: [batch, token, c] bool, or None.
    """

    x: Any
    mask: Any
    norm_weight: Any
    norm_bias: Any
    weight: Any
    bias: Any
    weight_heads: Any
    weight_out: Any
    pair: Any = None
    pair_norm_weight: Any = None
    pair_norm_bias: Any = None
    keep: Any = None

    def x_weights(self) -> projection.Weights:
        """Return the weights of the layers that read x."""
        heads = self.weight_heads if self.pair is None else None
        return projection.Weights(self.norm_weight, self.norm_bias, self.weight, self.bias, heads)

    def pair_weights(self) -> projection.Weights:
        """Return the weights of the layer that reads the pair tensor."""
        return projection.Weights(
            self.pair_norm_weight, self.pair_norm_bias, weight_heads=self.weight_heads
        )

    def project(self) -> tuple[Tensor, Tensor]:
        """Return queries, keys, values and gates [batch, row, token, 4c]; the bias of each head."""
        qkvg, heads = projection.project(self.x, self.x_weights())
        if self.pair is not None:
            heads = projection.project(self.pair, self.pair_weights())[1]
        return qkvg, heads


def unsupported_triangle(
    z: Tensor,
    mask: Tensor,
    weights: TriangleAttentionWeights,
    keep: Tensor | None,
    *,
    rate: float,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    del rate
    heads = PairBiasWeights(None, None, weights.weight_heads)
    tensors = flat_tensors(mask, weights, keep)
    return _unsupported_reason(z, z, heads, tensors, softmax, statistics)


def unsupported_pair_bias(
    s: Tensor,
    z: Tensor,
    mask: Tensor,
    weights: AttentionPairBiasWeights,
    *,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    heads = PairBiasWeights(None, None, weights.weight_heads)
    return _unsupported_reason(s, z, heads, flat_tensors(mask, weights), softmax, statistics)


def _unsupported_reason(
    x: Tensor,
    pair: Tensor,
    heads: PairBiasWeights,
    tensors: list[Tensor],
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> str | None:
    if softmax != torch.float32:
        return f"softmax is taken in float32, not in {softmax}"
    if x.shape[-1] // heads.weight_heads.shape[0] > attention.MAXIMUM_WIDTH:
        return f"heads are wider than {attention.MAXIMUM_WIDTH}"
    reason = projection.unsupported_reason_heads(pair, heads, statistics=statistics)
    return reason or unsupported_by_triton(x, *tensors)


def gated_triangle_attention(
    z: Tensor,
    mask: Tensor,
    weights: TriangleAttentionWeights,
    keep: Tensor | None,
    *,
    rate: float,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.gated_attention.gated_triangle_attention`."""
    del softmax, statistics
    arguments = _Arguments(x=z, mask=mask, bias=None, keep=keep, **weights._asdict())
    out: Tensor = forward(*arguments, rate)[0]
    return out


def attention_pair_bias(
    s: Tensor,
    z: Tensor,
    mask: Tensor,
    weights: AttentionPairBiasWeights,
    *,
    softmax: torch.dtype,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.gated_attention.attention_pair_bias`."""
    del softmax, statistics
    row, row_mask = s.unsqueeze(1), mask.unsqueeze(1)
    arguments = _Arguments(x=row, mask=row_mask, pair=z, **weights._asdict())
    out: Tensor = forward(*arguments, 0.0)[0]
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
    """Return the result; the attention output, [batch, row, token, head, d]; softmax statistics.

    See `_Arguments`.
    """
    arguments = _Arguments(
        x,
        mask,
        norm_weight,
        norm_bias,
        weight,
        bias,
        weight_heads,
        weight_out,
        pair,
        pair_norm_weight,
        pair_norm_bias,
        keep,
    )
    qkvg, heads = arguments.project()
    attended, softmax = attention.run(_attention_inputs(qkvg, heads, mask))
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
    """Return gradients of x, norm [2, c], weight, bias, heads, output weight, pair, its norm."""
    arguments = _Arguments(
        x,
        mask,
        norm_weight,
        norm_bias,
        weight,
        bias,
        weight_heads,
        weight_out,
        pair,
        pair_norm_weight,
        pair_norm_bias,
        keep,
    )
    width = x.shape[-1]
    qkvg, heads = arguments.project()
    inputs = _attention_inputs(qkvg, heads, mask)
    dqkvg = workspace(
        "gated_attention.dprojected", qkvg.shape, dtype=qkvg.dtype, device=qkvg.device
    )
    delta = torch.empty_like(softmax[0])
    gated_gradients, reductions = gated.finish_backward(
        grad,
        attended.flatten(-2),
        qkvg[..., 3 * width :],
        weight_out,
        keep,
        rate,
        dqkvg[..., 3 * width :],
        delta,
        heads.shape[1],
    )
    dattended = gated_gradients.x.view(attended.shape)
    dqkv = _split(dqkvg, heads.shape[1])
    attention.run_backward_tokens(dattended, inputs, softmax, delta, dqkv)
    dheads, bias_reductions = attention.run_backward_bias(dattended, inputs, softmax, delta)
    reduce(*reductions, *bias_reductions)
    del qkvg, inputs, dattended, dqkv, reductions, bias_reductions

    gradients, reductions = projection.project_backward(
        dqkvg, dheads, grad, x, arguments.x_weights()
    )
    dx, dnorm, dweight, dbias, dweight_heads = gradients
    if pair is None:
        dpair, dpair_norm = x.new_empty((0,)), x.new_empty((0,))
    else:
        pair_gradients, pair_reductions = projection.project_backward(
            dqkvg, dheads, None, pair, arguments.pair_weights()
        )
        reductions += pair_reductions
        dpair, dpair_norm = pair_gradients.x, pair_gradients.norm
        dweight_heads = pair_gradients.heads
    reduce(*reductions)
    return dx, dnorm, dweight, dbias, dweight_heads, gated_gradients.weight, dpair, dpair_norm


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    *tensors, ctx.rate = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, grad: Tensor | None, *_unused: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * (len(_Arguments._fields) + 1)
    *tensors, _attended, _softmax = saved = ctx.saved_tensors
    arguments = _Arguments(*tensors)
    dx, dnorm, dweight, dbias, dheads, dout, dpair, dpair_norm = backward(grad, *saved, ctx.rate)
    gradients = _Arguments(
        x=dx,
        mask=None,
        norm_weight=dnorm[0],
        norm_bias=dnorm[1],
        weight=dweight,
        bias=None if arguments.bias is None else dbias,
        weight_heads=dheads,
        weight_out=dout,
    )
    if arguments.pair is not None:
        gradients = gradients._replace(
            pair=dpair, pair_norm_weight=dpair_norm[0], pair_norm_bias=dpair_norm[1]
        )
    return *gradients, None


forward.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.foldperf.gated_attention)
def _flops(*shapes: Any, **_options: Any) -> int:
    arguments = _Arguments(*shapes[: len(_Arguments._fields)])
    x = arguments.x
    linear = math.prod(x[:-1]) * (math.prod(arguments.weight) + math.prod(arguments.weight_out))
    linear += math.prod((arguments.pair or x)[:-1]) * math.prod(arguments.weight_heads)
    return 2 * linear + 4 * math.prod(x) * int(x[2])


@register_flop_formula(torch.ops.foldperf.gated_attention_backward)
def _backward_flops(_grad: Any, *shapes: Any, **_options: Any) -> int:
    """Return twice the products of forward; recomputation is not counted."""
    return 2 * _flops(*shapes)


def _split(qkvg: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return views of queries, keys and values, [batch, row, token, head, d]."""
    q, k, v, _gate = qkvg.unflatten(-1, (4, heads, -1)).unbind(3)
    return q, k, v


def _attention_inputs(qkvg: Tensor, heads: Tensor, mask: Tensor) -> Inputs:
    return Inputs(*_split(qkvg, heads.shape[1]), heads, mask)
