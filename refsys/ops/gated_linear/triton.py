"""A gated linear layer on Triton kernels, as one custom operator.

`finish` and `finish_backward` also serve the fused operators that end with such a layer.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.backend import flat_tensors
from refsys.ops.dropout_residual.reference import dropout_scale
from refsys.ops.planes.triton import PartialSums, outer, reduce
from refsys.ops.triton_backend import (
    custom_operator,
    dense,
    dense_channels,
    launch,
    launch_options,
    padded_width,
    tiles,
    unsupported_by_triton,
)
from refsys.ops.weight_copies import in_dtype
from refsys.ops.workspace import workspace

# Channels of x at a time in backward, unless they are the heads of attention.
_CHUNK = 64


class Gradients(NamedTuple):
    """Gradients of x, of the gate and of the weight."""

    x: Tensor
    gate: Tensor
    weight: Tensor


def unsupported_reason(x: Tensor, *tensors: Tensor | None, rate: float = 0.0) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    del rate
    return unsupported_by_triton(x, *flat_tensors(tensors))


def gated_linear(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    keep: Tensor | None,
    *,
    rate: float,
) -> Tensor:
    """See `refsys.ops.gated_linear.gated_linear`."""
    out: Tensor = forward(x, gate, weight, residual, keep, rate)
    return out


def finish(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    keep: Tensor | None,
    rate: float,
) -> Tensor:
    """Apply the layer; the gate's positions are equidistant, `gate.stride(2)` apart."""
    batch, rows, tokens, width = x.shape
    outs = weight.shape[0]
    if residual is None:
        out = x.new_empty((batch, rows, tokens, outs))
        added = out
    else:
        added = dense_channels("gated_linear.residual", residual)
        out = torch.empty_like(added)
    options = launch_options("gated_linear.forward", x)
    options["BLOCK_WIDTH"] = min(options["BLOCK_WIDTH"], padded_width(width))
    grid = tiles(rows * tokens, options["BLOCK_ROWS"]), batch
    launch(
        "gated_linear.forward",
        (*grid, tiles(outs, options["BLOCK_OUT"])),
        dense("gated_linear.x", x, x.dtype),
        gate,
        gate.stride(2),
        in_dtype("gated_linear.weight", weight, x.dtype),
        added,
        added.stride(),
        x if keep is None else keep,
        out,
        out.stride(),
        tokens,
        rows * tokens,
        dropout_scale(rate),
        RESIDUAL=residual is not None,
        KEEP=keep is not None,
        WIDTH=width,
        OUT=outs,
        **options,
    )
    return out


def finish_backward(
    grad: Tensor,
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    keep: Tensor | None,
    rate: float,
    dgate: Tensor,
    delta: Tensor | None = None,
    heads: int = 0,
) -> tuple[Gradients, list[PartialSums]]:
    """Return the gradients, and the reductions that that of the weight still needs.

    Args:
        grad: Gradient of the output; strides are free.
        x: Argument of `finish`; so are `gate`, `weight`, `keep` and `rate`.
        gate: See `x`.
        weight: See `x`.
        keep: See `x`.
        rate: See `x`.
        dgate: Output for the gradient of the gate, with the gate's strides.
        delta: Output for Σ x · dx over each head, [batch, row, head, token]; None omits it.
        heads: Number of heads of x, for `delta`.
    """
    batch, rows, tokens, width = x.shape
    outs = weight.shape[0]
    grad = dense_channels("gated_linear.gradient", grad)
    x = dense("gated_linear.x", x, x.dtype)
    gradients = Gradients(torch.empty_like(x), dgate, weight.new_empty(weight.shape))
    gated = workspace("gated_linear.gated", x.shape, dtype=x.dtype, device=x.device)
    dlinear = grad
    store_dlinear = keep is not None or not grad.is_contiguous()
    if store_dlinear:
        dlinear = workspace("gated_linear.dlinear", grad.shape, dtype=x.dtype, device=x.device)
    chunk = width // heads if heads else min(width, _CHUNK)
    options = launch_options("gated_linear.backward", x)
    options["BLOCK_OUT"] = min(options["BLOCK_OUT"], padded_width(outs))
    launch(
        "gated_linear.backward",
        (tiles(rows * tokens, options["BLOCK_ROWS"]), batch),
        x,
        gate,
        gate.stride(2),
        in_dtype("gated_linear.weight", weight, x.dtype),
        x if keep is None else keep,
        grad,
        grad.stride(),
        gradients.x,
        dgate,
        gated,
        dlinear,
        x if delta is None else delta,
        tokens,
        rows * tokens,
        dropout_scale(rate),
        KEEP=keep is not None,
        LEAVE=store_dlinear,
        DELTA=delta is not None,
        WIDTH=width,
        OUT=outs,
        CHUNK=chunk,
        BLOCK_CHUNK=padded_width(chunk),
        **options,
    )
    return gradients, outer(dlinear, gated, gradients.weight)


@custom_operator("gated_linear")
def forward(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    keep: Tensor | None,
    rate: float,
) -> Tensor:
    """See `finish`."""
    return finish(x, _even("gate", gate), weight, residual, keep, rate)


@custom_operator("gated_linear_backward")
def backward(
    grad: Tensor, x: Tensor, gate: Tensor, weight: Tensor, keep: Tensor | None, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `finish_backward`."""
    gate = dense("gated_linear.gate", gate, gate.dtype)
    dgate = torch.empty_like(gate)
    gradients, reductions = finish_backward(grad, x, gate, weight, keep, rate, dgate)
    reduce(*reductions)
    return gradients.x, gradients.gate, gradients.weight


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    x, gate, weight, residual, keep, ctx.rate = inputs
    ctx.save_for_backward(x, gate, weight, keep)
    ctx.residual = residual is not None


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = backward(grad, *ctx.saved_tensors, ctx.rate)
    return (*gradients, grad if ctx.residual else None, None, None)


forward.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.foldperf.gated_linear)
def _flops(x: Any, _gate: Any, weight: Any, *_args: Any, **_options: Any) -> int:
    return 2 * math.prod(x[:-1]) * math.prod(weight)


@register_flop_formula(torch.ops.foldperf.gated_linear_backward)
def _backward_flops(
    _grad: Any, x: Any, _gate: Any, weight: Any, *_args: Any, **_options: Any
) -> int:
    return 4 * math.prod(x[:-1]) * math.prod(weight)


def _even(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor if its positions are equidistant, else a copy in scratch."""
    batch, rows, tokens, _width = tensor.shape
    step = tensor.stride(2)
    even = tensor.stride(-1) == 1
    even &= rows == 1 or tensor.stride(1) == tokens * step
    even &= batch == 1 or tensor.stride(0) == rows * tokens * step
    return tensor if even else dense(f"gated_linear.{name}", tensor, tensor.dtype)
