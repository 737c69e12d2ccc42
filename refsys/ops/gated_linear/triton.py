"""A gated linear layer on Triton's kernels, as an operator that torch sees as one.

`finish` and `finish_backward` are what the fused operators that end with it are made of, too.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.dropout_residual.reference import kept_scale
from refsys.ops.planes.triton import Planes, fold, outer
from refsys.ops.triton_backend import (
    custom_operator,
    dense,
    dense_channels,
    launch,
    launch_options,
    padded_width,
    tiles,
    why_not_triton,
)
from refsys.ops.weight_copies import in_dtype
from refsys.ops.workspace import workspace

# Channels of x at a time, in backward, where they are no heads.
_CHUNK = 64


class Gradients(NamedTuple):
    """Gradients of x, of the gate and of the weight."""

    x: Tensor
    gate: Tensor
    weight: Tensor


def why_not(x: Tensor, *tensors: Tensor | None, rate: float = 0.0) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    del rate
    return why_not_triton(x, *(each for each in tensors if each is not None))


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
    """The operator itself; the gate's positions lie evenly, `gate.stride(2)` apart."""
    batch, rows, tokens, width = x.shape
    outs = weight.shape[0]
    if residual is None:
        out = x.new_empty((batch, rows, tokens, outs))
        beside = out
    else:
        beside = dense_channels("gated_linear.residual", residual)
        out = torch.empty_like(beside)
    options = launch_options("gated_linear.forward", x)
    options["BLOCK_WIDTH"] = min(options["BLOCK_WIDTH"], padded_width(width))
    grid = tiles(rows * tokens, options["BLOCK_ROWS"]), batch
    launch(
        "gated_linear.forward",
        (*grid, tiles(outs, options["BLOCK_OUT"])),
        *(dense("gated_linear.x", x, x.dtype), gate, gate.stride(2)),
        *(in_dtype("gated_linear.weight", weight, x.dtype), beside, beside.stride()),
        *(x if keep is None else keep, out, out.stride(), tokens, rows * tokens, kept_scale(rate)),
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
) -> tuple[Gradients, list[Planes]]:
    """Gradients, that of the weight still to be folded.

    Args:
        grad: Of the output, anyhow.
        x: As given to `finish`; so are `gate`, `weight`, `keep` and `rate`.
        gate: See `x`.
        weight: See `x`.
        keep: See `x`.
        rate: See `x`.
        dgate: Where the gradient of the gate goes; it lies as the gate does.
        delta: Where Σ x · dx over each head goes, [batch, row, head, token]; None for nowhere.
        heads: How many heads x has, for `delta`.
    """
    batch, rows, tokens, width = x.shape
    outs = weight.shape[0]
    grad = dense_channels("gated_linear.gradient", grad)
    x = dense("gated_linear.x", x, x.dtype)
    gradients = Gradients(torch.empty_like(x), dgate, weight.new_empty(weight.shape))
    gated = workspace("gated_linear.gated", x.shape, dtype=x.dtype, device=x.device)
    dlinear = grad
    leave = keep is not None or not grad.is_contiguous()
    if leave:
        dlinear = workspace("gated_linear.dlinear", grad.shape, dtype=x.dtype, device=x.device)
    chunk = width // heads if heads else min(width, _CHUNK)
    options = launch_options("gated_linear.backward", x)
    options["BLOCK_OUT"] = min(options["BLOCK_OUT"], padded_width(outs))
    launch(
        "gated_linear.backward",
        (tiles(rows * tokens, options["BLOCK_ROWS"]), batch),
        *(x, gate, gate.stride(2), in_dtype("gated_linear.weight", weight, x.dtype)),
        *(x if keep is None else keep, grad, grad.stride(), gradients.x, dgate, gated, dlinear),
        *(x if delta is None else delta, tokens, rows * tokens, kept_scale(rate)),
        KEEP=keep is not None,
        LEAVE=leave,
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
    gradients, jobs = finish_backward(grad, x, gate, weight, keep, rate, torch.empty_like(gate))
    fold(*jobs)
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
    """The tensor itself if all its positions lie one stride apart, else a copy, in scratch."""
    batch, rows, tokens, _width = tensor.shape
    step = tensor.stride(2)
    even = tensor.stride(-1) == 1
    even &= rows == 1 or tensor.stride(1) == tokens * step
    even &= batch == 1 or tensor.stride(0) == rows * tokens * step
    return tensor if even else dense(f"gated_linear.{name}", tensor, tensor.dtype)
