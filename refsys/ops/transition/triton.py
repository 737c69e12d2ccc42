"""Transition on Triton kernels, as one custom operator.

Only the input is saved for backward, which recomputes the rest, once for the gradient of the input
and once for those of the weights.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.planes.triton import PartialSums, reduce
from refsys.ops.transition.reference import TransitionWeights
from refsys.ops.triton_backend import (
    custom_operator,
    dense,
    launch,
    launch_options,
    padded_width,
    split,
    tiles,
    unsupported_by_triton,
)
from refsys.ops.weight_copies import in_dtype
from refsys.ops.workspace import workspace

# Wider rows do not fit in a program's registers.
MAXIMUM_WIDTH = 512
_EPSILON = 1e-5
# Programs of the weights' gradients, each a chunk of the hidden layer and a part of the rows:
# enough to occupy every multiprocessor. Their partial sums take at most twice x's elements.
_PROGRAMS = 256


def unsupported_reason(
    x: Tensor, weights: TransitionWeights, *, statistics: torch.dtype, residual: bool = False
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    del residual
    if statistics != torch.float32:
        return f"statistics are taken in float32, not in {statistics}"
    if x.shape[-1] > MAXIMUM_WIDTH:
        return f"rows are wider than {MAXIMUM_WIDTH}"
    return unsupported_by_triton(x, *weights)


def transition(
    x: Tensor, weights: TransitionWeights, *, statistics: torch.dtype, residual: bool = False
) -> Tensor:
    """See `refsys.ops.transition.transition`."""
    del statistics
    out: Tensor = forward(x, *weights, residual)
    return out


@custom_operator("transition")
def forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    residual: bool,
) -> Tensor:
    """Return the update, or x + update with `residual`."""
    weights = TransitionWeights(norm_weight, norm_bias, weight_in, weight_out)
    out = x.new_empty(x.shape)
    options = _options("transition.forward", x, weight_out.shape[1])
    rows = x.numel() // x.shape[-1]
    launch(
        "transition.forward",
        (tiles(rows, options["BLOCK_ROWS"]),),
        dense("transition.x", x, x.dtype),
        *_cast(weights, x.dtype),
        out,
        rows,
        weight_out.shape[1],
        _EPSILON,
        RESIDUAL=residual,
        **options,
    )
    return out


@custom_operator("transition_backward")
def backward(
    grad: Tensor,
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x; of scale and offset [2, c]; of both weights, flat [3nc²]."""
    width, hidden = x.shape[-1], weight_out.shape[1]
    rows = x.numel() // width
    dense_x = dense("transition.x", x, x.dtype)
    weights = _cast(TransitionWeights(norm_weight, norm_bias, weight_in, weight_out), x.dtype)
    grad = dense("transition.gradient", grad, x.dtype)
    dx = x.new_empty(x.shape)
    y = workspace("transition.normalized", x.shape, dtype=x.dtype, device=x.device)

    options = _options("transition.backward_rows", x, hidden)
    parts = tiles(rows, options["BLOCK_ROWS"])
    norm_partials = _partials("transition.norm_planes", x, parts, 2 * width)
    launch(
        "transition.backward_rows",
        (parts,),
        dense_x,
        *weights,
        grad,
        dx,
        y,
        norm_partials,
        rows,
        hidden,
        _EPSILON,
        RESIDUAL=residual,
        **options,
    )

    dnorm = norm_weight.new_empty((2, width))
    dweights, reduction = backward_weights(
        y, weights.weight_in, weights.weight_out, grad, weight_in
    )
    reduce(PartialSums(norm_partials, dnorm.unsqueeze(0)), reduction)
    return dx, dnorm, dweights


def backward_weights(
    y: Tensor, weight_in: Tensor, weight_out: Tensor, grad: Tensor, like: Tensor
) -> tuple[Tensor, PartialSums]:
    """Return the gradients of both weights, flat [3nc²], and the reduction that they still need.

    Args:
        y: [..., c], input of the first linear layer, dense.
        weight_in: [2nc, c], dtype of `y`.
        weight_out: [c, nc], dtype of `y`.
        grad: Gradient of the second layer's output, shape and dtype of `y`, dense.
        like: Tensor with the dtype of the gradients.
    """
    width, hidden = weight_out.shape
    options = _options("transition.backward_weights", y, hidden)
    chunks = tiles(hidden, options["BLOCK_HIDDEN"])
    rows = y.numel() // width
    most = min(tiles(_PROGRAMS, chunks), 2 * y.numel() // (3 * hidden * width))
    parts, tiles_per_part = split(tiles(rows, options["BLOCK_ROWS"]), max(1, most))
    partials = _partials("transition.weight_planes", y, parts, 3 * hidden * width)
    launch(
        "transition.backward_weights",
        (parts * chunks,),
        y,
        weight_in,
        weight_out,
        grad,
        partials,
        rows,
        hidden,
        tiles_per_part,
        **options,
    )
    dweights = like.new_empty((3 * hidden * width,))
    return dweights, PartialSums(partials, dweights.unsqueeze(0))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    *tensors, ctx.residual = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, *saved = ctx.saved_tensors
    weights = TransitionWeights(*saved)
    dx, dnorm, dweights = backward(grad, x, *weights, ctx.residual)
    sizes = [weights.weight_in.numel(), weights.weight_out.numel()]
    dweight_in, dweight_out = dweights.split(sizes)
    gradients = TransitionWeights(
        dnorm[0],
        dnorm[1],
        dweight_in.view(weights.weight_in.shape),
        dweight_out.view(weights.weight_out.shape),
    )
    return dx, *gradients, None


forward.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.foldperf.transition)
def _flops(
    x: Any, _scale: Any, _offset: Any, weight_in: Any, weight_out: Any, *_args: Any, **_options: Any
) -> int:
    return 2 * math.prod(x[:-1]) * (math.prod(weight_in) + math.prod(weight_out))


@register_flop_formula(torch.ops.foldperf.transition_backward)
def _backward_flops(_grad: Any, *args: Any, **_options: Any) -> int:
    """Return twice the products of forward; recomputation is not counted."""
    return 2 * _flops(*args)


def _cast(weights: TransitionWeights, dtype: torch.dtype) -> TransitionWeights:
    """Return the weights with their matrices in the dtype that kernels compute in."""
    return weights._replace(
        weight_in=in_dtype("transition.weight_in", weights.weight_in, dtype),
        weight_out=in_dtype("transition.weight_out", weights.weight_out, dtype),
    )


def _options(kernel: str, x: Tensor, hidden: int) -> dict[str, Any]:
    """Return a kernel's launch options and the constants that follow from the shapes."""
    options, width = launch_options(kernel, x), x.shape[-1]
    padded = padded_width(width)
    even = width == padded and hidden % options["BLOCK_HIDDEN"] == 0
    return options | {"WIDTH": width, "BLOCK_WIDTH": padded, "EVEN": even}


def _partials(name: str, x: Tensor, parts: int, size: int) -> Tensor:
    return workspace(name, (1, parts, size), dtype=torch.float32, device=x.device)
