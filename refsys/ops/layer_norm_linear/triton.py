"""LayerNorm and linear layers on Triton's kernels, as operators that torch sees as one.

Backward keeps the input alone. `project` and `project_backward` are what the fused operators that
begin with a projection are made of, too.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.planes.triton import Planes, fold, outer
from refsys.ops.specialization import common_unit
from refsys.ops.triton_backend import (
    WIDE,
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

MAXIMUM_HEADS = 64
_EPSILON = 1e-5


class Parameters(NamedTuple):
    """A LayerNorm, and the layers that read it.

    Attributes:
        scale: [c], or None.
        offset: [c], or None.
        weight: [o, c], or None.
        bias: [b] of the first b channels that come out, or None.
        heads: [head, c], or None.
    """

    scale: Tensor | None
    offset: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    heads: Tensor | None


class Gradients(NamedTuple):
    """The gradients of x and of the parameters; those of `norm` are [2, c], scale and offset."""

    x: Tensor
    norm: Tensor
    weight: Tensor
    bias: Tensor
    heads: Tensor


def why_not(x: Tensor, *parameters: Tensor | None, statistics: torch.dtype) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if statistics != torch.float32:
        return f"statistics are taken in float32, not in {statistics}"
    return why_not_triton(x, *(each for each in parameters if each is not None))


def why_not_heads(x: Tensor, *parameters: Tensor | None, statistics: torch.dtype) -> str | None:
    """See `refsys.ops.backend.Implementation`: the last parameter is the heads' weight."""
    heads = parameters[-1]
    if x.shape[-1] > WIDE:
        return f"positions are wider than {WIDE}"
    if heads is not None and heads.shape[0] > MAXIMUM_HEADS:
        return f"there are more than {MAXIMUM_HEADS} heads"
    return why_not(x, *parameters, statistics=statistics)


def layer_norm_linear(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    *,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.layer_norm_linear.layer_norm_linear`."""
    del statistics
    # Where rows and columns are apart they may stay so; what has more axes is a long row.
    placed = x if x.dim() == 4 else x.reshape(1, 1, -1, x.shape[-1])
    out: Tensor = forward(placed, norm_weight, norm_bias, weight, bias, None)[0]
    return out.view(*x.shape[:-1], -1)


def pair_bias(
    z: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight_heads: Tensor,
    *,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.layer_norm_linear.pair_bias`."""
    del statistics
    heads: Tensor = forward(z, norm_weight, norm_bias, None, None, weight_heads)[1]
    return heads


def attention_projection(
    z: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    weight_heads: Tensor,
    *,
    statistics: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """See `refsys.ops.layer_norm_linear.attention_projection`."""
    del statistics
    out, heads = forward(z, norm_weight, norm_bias, weight, None, weight_heads)
    return out, heads


def project(x: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """What the layers make of [batch, row, token, c]; empty where there is none.

    Returns:
        [batch, row, token, o] and [batch, head, row, token].
    """
    x = dense_channels("layer_norm_linear.x", x)
    batch, rows, tokens, width = x.shape
    outs, heads = _count(parameters.weight), _count(parameters.heads)
    out = x.new_empty((batch, rows, tokens, outs) if outs else (0,))
    planes = x.new_empty((batch, heads, rows, tokens) if heads else (0,))
    scale, offset, weight, bias, weight_heads = _on_device(x, parameters)
    sizes = tokens, rows * tokens, _EPSILON
    flags = _flags(parameters) | {"BIAS": _count(parameters.bias), "OUT": outs}
    if width <= WIDE:
        options = launch_options("layer_norm_linear.forward", x) | flags
        launch(
            "layer_norm_linear.forward",
            (tiles(rows * tokens, options["BLOCK_ROWS"]), batch),
            *(x, x.stride(), scale, offset, weight, bias, weight_heads, out, planes, *sizes),
            **_narrow(width, heads, rows * tokens),
            **options,
        )
    else:
        options = launch_options("layer_norm_linear.forward_wide", x) | flags
        grid = tiles(rows * tokens, options["BLOCK_ROWS"]), batch
        launch(
            "layer_norm_linear.forward_wide",
            (*grid, tiles(outs, options["BLOCK_OUT"])),
            *(x, x.stride(), scale, offset, weight, bias, out, *sizes),
            WIDTH=width,
            **options,
        )
    return out, planes


def project_backward(
    d: Tensor, dheads: Tensor, beside: Tensor | None, x: Tensor, parameters: Parameters
) -> tuple[Gradients, list[Planes]]:
    """Gradients, all but that of x still to be folded.

    Args:
        d: Of what `project` gave, dense; empty where that was.
        dheads: Likewise.
        beside: [batch, row, token, c], added to the gradient of x; None adds nothing.
        x: As given to `project`.
        parameters: As given to `project`.
    """
    x = dense_channels("layer_norm_linear.x", x)
    batch, rows, tokens, width = x.shape
    scale, offset, weight, _bias, weight_heads = parameters
    norm_dtype = next((each.dtype for each in (scale, offset) if each is not None), x.dtype)
    gradients = Gradients(
        torch.empty_like(x),
        x.new_empty((2, width), dtype=norm_dtype),
        *(x.new_empty((0,)) if t is None else t.new_empty(t.shape) for t in parameters[2:]),
    )
    scale, offset, half, _bias, half_heads = _on_device(x, parameters)
    besides = gradients.x if beside is None else dense_channels("layer_norm_linear.beside", beside)
    y = gradients.x
    if weight is not None:
        y = workspace("layer_norm_linear.normalized", x.shape, dtype=x.dtype, device=x.device)
    flags = _flags(parameters) | {"BESIDE": beside is not None}
    outs, heads = _count(weight), _count(weight_heads)
    narrow = width <= WIDE
    kernel = "layer_norm_linear.backward" if narrow else "layer_norm_linear.backward_wide"
    options = launch_options(kernel, x) | flags
    count = tiles(rows * tokens, options["BLOCK_ROWS"])
    planes = _planes("norm_planes", x, (1, batch * count, 2, width))
    jobs = [Planes(planes, gradients.norm.unsqueeze(0))]
    places = besides, besides.stride(), gradients.x, gradients.x.stride(), y, planes
    sizes = tokens, rows * tokens, _EPSILON
    if narrow:
        head_planes = planes
        if heads:
            head_planes = _planes("head_planes", x, (1, batch * count, heads, width))
            jobs.append(Planes(head_planes, gradients.heads.unsqueeze(0)))
        launch(
            kernel,
            (count, batch),
            *(x, x.stride(), scale, offset, half, half_heads, d, dheads, *places, head_planes),
            *sizes,
            OUT=outs,
            **_narrow(width, heads, rows * tokens),
            **options,
        )
    else:
        dy = _planes("towards", x, x.shape)
        _product(d, half, dy)
        launch(
            kernel,
            (count, batch),
            *(x, x.stride(), scale, offset, dy, *places, *sizes),
            WIDTH=width,
            **options,
        )
    if weight is not None:
        sums = None if parameters.bias is None else gradients.bias
        jobs += outer(d, y, gradients.weight, sums)
    return gradients, jobs


@custom_operator("layer_norm_linear")
def forward(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    weight_heads: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `project`."""
    return project(x, Parameters(norm_weight, norm_bias, weight, bias, weight_heads))


@custom_operator("layer_norm_linear_backward")
def backward(
    d: Tensor | None,
    dheads: Tensor | None,
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    weight_heads: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `project_backward`; what had no gradient has one of zero."""
    batch, rows, tokens, _width = x.shape
    parameters = Parameters(norm_weight, norm_bias, weight, bias, weight_heads)
    shapes = (batch, rows, tokens, _count(weight)), (batch, _count(weight_heads), rows, tokens)
    given = [
        x.new_zeros(shape) if each is None else dense("layer_norm_linear.gradient", each, x.dtype)
        for each, shape in zip((d, dheads), shapes, strict=True)
    ]
    gradients, jobs = project_backward(given[0], given[1], None, x, parameters)
    fold(*jobs)
    return gradients.x, gradients.norm, gradients.weight, gradients.bias, gradients.heads


def _setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Any) -> None:
    del output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, d: Tensor | None, dheads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    found = Gradients(*backward(d, dheads, *saved))
    every = found.x, found.norm[0], found.norm[1], found.weight, found.bias, found.heads
    return tuple(None if t is None else g for t, g in zip(saved, every, strict=True))


forward.register_autograd(_backward, setup_context=_setup_context)


def _linear(x: Any, weights: Any) -> int:
    return sum(2 * math.prod(x[:-1]) * math.prod(each) for each in weights if each is not None)


@register_flop_formula(torch.ops.foldperf.layer_norm_linear)
def _flops(
    x: Any, _scale: Any, _offset: Any, weight: Any, _bias: Any, heads: Any, **_o: Any
) -> int:
    return _linear(x, (weight, heads))


@register_flop_formula(torch.ops.foldperf.layer_norm_linear_backward)
def _backward_flops(_d: Any, _dheads: Any, x: Any, *parameters: Any, **_options: Any) -> int:
    return 2 * _linear(x, (parameters[2], parameters[4]))


def _product(d: Tensor, weight: Tensor, out: Tensor) -> None:
    """Σ d[..., o] weight[o, c]."""
    options = launch_options("layer_norm_linear.product", d)
    outs, width = weight.shape
    rows = d.numel() // outs
    grid = tiles(rows, options["BLOCK_ROWS"]), tiles(width, options["BLOCK_WIDTH"])
    even = outs % options["BLOCK_OUT"] == 0 and width % options["BLOCK_WIDTH"] == 0
    sizes = rows, outs, width
    launch("layer_norm_linear.product", grid, d, weight, out, *sizes, EVEN=even, **options)


def _on_device(x: Tensor, parameters: Parameters) -> tuple[Tensor, ...]:
    """What the kernels read: weights in the dtype of x, and something where there is nothing."""
    scale, offset, weight, bias, heads = parameters
    half, half_heads = (
        x if each is None else in_dtype(f"layer_norm_linear.{name}", each, x.dtype)
        for name, each in (("weight", weight), ("heads", heads))
    )
    scale, offset, bias = (x if each is None else each for each in (scale, offset, bias))
    return scale, offset, half, bias, half_heads


def _flags(parameters: Parameters) -> dict[str, Any]:
    return {"SCALE": parameters.scale is not None, "SHIFT": parameters.offset is not None}


def _narrow(width: int, heads: int, positions: int) -> dict[str, int]:
    """Return the constants of the kernels that keep whole rows.

    What heads get lies position by position: there, and only there, vectors run along them.
    """
    return {
        "WIDTH": width,
        "BLOCK_WIDTH": padded_width(width),
        "HEADS": heads,
        "BLOCK_HEADS": padded_width(max(heads, 1)),
        "UNIT": common_unit((positions,)) if heads else 1,
    }


def _count(weight: Tensor | None) -> int:
    return 0 if weight is None else weight.shape[0]


def _planes(name: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return workspace(f"layer_norm_linear.{name}", shape, dtype=torch.float32, device=like.device)
