"""Transition on Triton's kernels, as operators that torch sees as one.

Backward keeps the input alone and makes everything else again, once for the gradient of the input
and once for those of the weights.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.planes.triton import Planes, fold
from refsys.ops.triton_backend import (
    custom_operator,
    dense,
    launch,
    launch_options,
    padded_width,
    split,
    tiles,
    why_not_triton,
)
from refsys.ops.weight_copies import in_dtype
from refsys.ops.workspace import workspace

# Wider rows do not fit in a program's registers.
MAXIMUM_WIDTH = 512
_EPSILON = 1e-5
# Programs of the weights' gradients, each a chunk of the hidden layer and a part of the rows, so
# that no multiprocessor idles. Their planes take twice x's elements at most.
_PROGRAMS = 256


def why_not(
    x: Tensor, *parameters: Tensor, statistics: torch.dtype, residual: bool = False
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    del residual
    if statistics != torch.float32:
        return f"statistics are taken in float32, not in {statistics}"
    if x.shape[-1] > MAXIMUM_WIDTH:
        return f"rows are wider than {MAXIMUM_WIDTH}"
    return why_not_triton(x, *parameters)


def transition(
    x: Tensor, *parameters: Tensor, statistics: torch.dtype, residual: bool = False
) -> Tensor:
    """See `refsys.ops.transition.transition`."""
    del statistics
    out: Tensor = forward(x, *parameters, residual)
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
    """The update, or x with it."""
    out = x.new_empty(x.shape)
    options = _options("transition.forward", x, weight_out.shape[1])
    rows = x.numel() // x.shape[-1]
    launch(
        "transition.forward",
        (tiles(rows, options["BLOCK_ROWS"]),),
        *_inputs(x, norm_weight, norm_bias, weight_in, weight_out),
        *(out, rows, weight_out.shape[1], _EPSILON),
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
    """Gradients of x; of scale and offset [2, c]; of both weights, one after the other [3nc²]."""
    width, hidden = x.shape[-1], weight_out.shape[1]
    rows = x.numel() // width
    inputs = _inputs(x, norm_weight, norm_bias, weight_in, weight_out)
    grad = dense("transition.gradient", grad, x.dtype)
    dx = x.new_empty(x.shape)
    y = workspace("transition.normalized", x.shape, dtype=x.dtype, device=x.device)

    options = _options("transition.backward_rows", x, hidden)
    parts = tiles(rows, options["BLOCK_ROWS"])
    norm_planes = _planes("transition.norm_planes", x, parts, 2 * width)
    launch(
        "transition.backward_rows",
        (parts,),
        *(*inputs, grad, dx, y, norm_planes, rows, hidden, _EPSILON),
        RESIDUAL=residual,
        **options,
    )

    dnorm = norm_weight.new_empty((2, width))
    half_in, half_out = inputs[3:]
    dweights, job = backward_weights(y, half_in, half_out, grad, weight_in)
    fold(Planes(norm_planes, dnorm.unsqueeze(0)), job)
    return dx, dnorm, dweights


def backward_weights(
    y: Tensor, weight_in: Tensor, weight_out: Tensor, grad: Tensor, like: Tensor
) -> tuple[Tensor, Planes]:
    """The gradients of both weights, one after the other [3nc²]; and what is left to `fold`.

    Args:
        y: [..., c], what the first linear layer reads, dense.
        weight_in: [2nc, c], dtype of `y`.
        weight_out: [c, nc], likewise.
        grad: Of what the second one gives, shape and dtype of `y`, dense.
        like: Has the dtype of the gradients.
    """
    width, hidden = weight_out.shape
    options = _options("transition.backward_weights", y, hidden)
    chunks = tiles(hidden, options["BLOCK_HIDDEN"])
    rows = y.numel() // width
    most = min(tiles(_PROGRAMS, chunks), 2 * y.numel() // (3 * hidden * width))
    parts, each = split(tiles(rows, options["BLOCK_ROWS"]), max(1, most))
    planes = _planes("transition.weight_planes", y, parts, 3 * hidden * width)
    launch(
        "transition.backward_weights",
        (parts * chunks,),
        *(y, weight_in, weight_out, grad, planes, rows, hidden, each),
        **options,
    )
    dweights = like.new_empty((3 * hidden * width,))
    return dweights, Planes(planes, dweights.unsqueeze(0))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    *tensors, ctx.residual = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    weight_in, weight_out = saved[3:]
    dx, dnorm, dweights = backward(grad, *saved, ctx.residual)
    dweight_in, dweight_out = dweights.split([weight_in.numel(), weight_out.numel()])
    return (
        dx,
        dnorm[0],
        dnorm[1],
        dweight_in.view(weight_in.shape),
        dweight_out.view(weight_out.shape),
        None,
    )


forward.register_autograd(_backward, setup_context=_setup_context)


def _products(x: Any, weight_in: Any, weight_out: Any) -> int:
    return 2 * math.prod(x[:-1]) * (math.prod(weight_in) + math.prod(weight_out))


@register_flop_formula(torch.ops.foldperf.transition)
def _flops(
    x: Any, _scale: Any, _offset: Any, weight_in: Any, weight_out: Any, *_args: Any, **_options: Any
) -> int:
    return _products(x, weight_in, weight_out)


@register_flop_formula(torch.ops.foldperf.transition_backward)
def _backward_flops(_grad: Any, x: Any, *args: Any, **_options: Any) -> int:
    """What is made again is not counted."""
    return 2 * _products(x, *args[2:4])


def _inputs(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight_in: Tensor, weight_out: Tensor
) -> tuple[Tensor, ...]:
    """Dense, weights in the dtype of x."""
    return (
        dense("transition.x", x, x.dtype),
        norm_weight,
        norm_bias,
        in_dtype("transition.weight_in", weight_in, x.dtype),
        in_dtype("transition.weight_out", weight_out, x.dtype),
    )


def _options(kernel: str, x: Tensor, hidden: int) -> dict[str, Any]:
    """A kernel's launch options and the constants that follow from the shapes."""
    options, width = launch_options(kernel, x), x.shape[-1]
    padded = padded_width(width)
    even = width == padded and hidden % options["BLOCK_HIDDEN"] == 0
    return options | {"WIDTH": width, "BLOCK_WIDTH": padded, "EVEN": even}


def _planes(name: str, x: Tensor, parts: int, size: int) -> Tensor:
    return workspace(name, (1, parts, size), dtype=torch.float32, device=x.device)
