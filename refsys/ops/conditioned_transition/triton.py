"""Conditioned transition on Triton's kernels, as an operator that torch sees as one.

Backward keeps the inputs alone and makes everything else again. What is wider than a row of `a` is
there for some rows at a time.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.adaptive_layer_norm import triton as adaptive_layer_norm
from refsys.ops.adaptive_layer_norm.triton import EPSILON, Beside, sizes
from refsys.ops.planes.triton import Planes, fold, outer
from refsys.ops.transition.triton import backward_weights
from refsys.ops.triton_backend import (
    WIDE,
    custom_operator,
    dense,
    launch,
    launch_options,
    padded_width,
    product,
    tiles,
)
from refsys.ops.weight_copies import in_dtype
from refsys.ops.workspace import workspace

# Wide rows at a time: enough for the vendor's products, or as many as make what is three times as
# wide as the hidden layer no larger than all rows of `a`.
ROWS_AT_ONCE = 4096


def conditioned_transition(
    a: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    *,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.conditioned_transition.conditioned_transition`."""
    del statistics
    out: Tensor = forward(a, scale, shift, gate, weight_in, weight_out)
    return out


@custom_operator("conditioned_transition")
def forward(
    a: Tensor, scale: Tensor, shift: Tensor, gate: Tensor, weight_in: Tensor, weight_out: Tensor
) -> Tensor:
    """See `conditioned_transition`."""
    inputs = _inputs(a, scale, shift, gate, weight_in, weight_out)
    out = a.new_empty(a.shape)
    if a.shape[-1] <= WIDE:
        _launch_rows("forward", inputs, out)
        return out
    a, scale, shift, gate, weight_in, weight_out = inputs
    adaptive_layer_norm.run(a, scale, shift, y := _scratch("normalized", a))
    units, wide = _hidden(a, weight_out)
    for some in _parts(a, weight_out):
        count = _project(y, weight_in, some, wide)
        _launch_units("swiglu", wide[:count], units[:count])
        product(_rows(out)[some], units[:count], weight_out.t())
    _open_gate(out, gate, a, out)
    return out


@custom_operator("conditioned_transition_backward")
def backward(
    grad: Tensor,
    a: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, scale, shift and gate; of both weights, one after the other [3hc]."""
    inputs = _inputs(a, scale, shift, gate, weight_in, weight_out)
    grad = dense("conditioned_transition.gradient", grad, a.dtype)
    made = _Intermediates(*(_scratch(name, grad) for name in _Intermediates._fields))
    narrow = a.shape[-1] <= WIDE
    dweights, job = (_narrow_backward if narrow else _wide_backward)(grad, inputs, made, weight_in)
    a, scale, _shift, gate = inputs[:4]
    block = Beside(gate, grad, made.update)
    found = adaptive_layer_norm.run_backward(a, scale, made.dnormalized, block)
    fold(job)
    return *found, dweights


class _Intermediates(NamedTuple):
    """What backward makes beside its results, each shaped as a.

    Attributes:
        normalized: What the norm gives.
        dnormalized: Its gradient.
        update: What the gate multiplies.
        towards: Its gradient.
    """

    normalized: Tensor
    dnormalized: Tensor
    update: Tensor
    towards: Tensor


def _narrow_backward(
    grad: Tensor, inputs: tuple[Tensor, ...], made: _Intermediates, like: Tensor
) -> tuple[Tensor, Planes]:
    """Fills `made`; gives the gradients of the weights, in the dtype of `like`, to be folded."""
    y, dy, update, towards = made
    _launch_rows("backward_rows", inputs, grad, y, towards, dy, update)
    weight_in, weight_out = inputs[4:]
    return backward_weights(y, weight_in, weight_out, towards, like)


def _wide_backward(
    grad: Tensor, inputs: tuple[Tensor, ...], made: _Intermediates, like: Tensor
) -> tuple[Tensor, Planes]:
    """The same for wide rows, some at a time."""
    a, scale, shift, gate, weight_in, weight_out = inputs
    y, dy, update, towards = made
    adaptive_layer_norm.run(a, scale, shift, y)
    _open_gate(grad, gate, None, towards)
    units, wide = _hidden(a, weight_out)
    parts = list(_parts(a, weight_out))
    planes = workspace(
        "conditioned_transition.weight_planes",
        (1, len(parts), 3 * weight_out.numel()),
        dtype=torch.float32,
        device=a.device,
    )
    for number, some in enumerate(parts):
        count = _project(y, weight_in, some, wide)
        product(units[:count], _rows(towards)[some], weight_out)
        _launch_units("swiglu_backward", wide[:count], units[:count])
        product(_rows(update)[some], units[:count], weight_out.t())
        product(_rows(dy)[some], wide[:count], weight_in)
        first, second = planes[0, number].split([weight_in.numel(), weight_out.numel()])
        outer(wide[:count], _rows(y)[some], first.view(weight_in.shape), parts=1)
        outer(_rows(towards)[some], units[:count], second.view(weight_out.shape), parts=1)
    dweights = like.new_empty(planes.shape[-1:])
    return dweights, Planes(planes, dweights.unsqueeze(0))


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    saved = ctx.saved_tensors
    weights = saved[4:]
    *found, dweights = backward(grad, *saved)
    parts = dweights.split([weight.numel() for weight in weights])
    return *found, *(d.view(w.shape) for d, w in zip(parts, weights, strict=True))


forward.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.foldperf.conditioned_transition)
def _flops(a: Any, *args: Any, **_options: Any) -> int:
    return 2 * math.prod(a[:-1]) * sum(math.prod(weight) for weight in args[3:5])


@register_flop_formula(torch.ops.foldperf.conditioned_transition_backward)
def _backward_flops(_grad: Any, *args: Any, **_options: Any) -> int:
    """What is made again is not counted."""
    return 2 * _flops(*args)


def _inputs(
    a: Tensor, scale: Tensor, shift: Tensor, gate: Tensor, weight_in: Tensor, weight_out: Tensor
) -> tuple[Tensor, ...]:
    """Dense, weights in the dtype of a."""
    return (
        *(dense("conditioned_transition.input", t, a.dtype) for t in (a, scale, shift, gate)),
        in_dtype("conditioned_transition.weight_in", weight_in, a.dtype),
        in_dtype("conditioned_transition.weight_out", weight_out, a.dtype),
    )


def _launch_rows(kernel: str, inputs: tuple[Tensor, ...], *others: Tensor) -> None:
    """Starts one of the kernels that take narrow rows through the whole."""
    a, scale, weight_out = inputs[0], inputs[1], inputs[5]
    groups, samples, rows = sizes(a, scale)
    width, hidden = weight_out.shape
    options = launch_options(f"conditioned_transition.{kernel}", a)
    padded = padded_width(width)
    even = width == padded and hidden % options["BLOCK_HIDDEN"] == 0
    launch(
        f"conditioned_transition.{kernel}",
        (tiles(rows, options["BLOCK_ROWS"]), groups * samples),
        *(*inputs, *others, rows, samples, hidden, EPSILON),
        **options | {"WIDTH": width, "BLOCK_WIDTH": padded, "EVEN": even},
    )


def _project(y: Tensor, weight_in: Tensor, some: slice, wide: Tensor) -> int:
    """Both projections of some rows, into the first rows of `wide`; how many those are."""
    count = some.stop - some.start
    product(wide[:count], _rows(y)[some], weight_in.t())
    return count


def _launch_units(kernel: str, wide: Tensor, units: Tensor) -> None:
    """Starts one of the kernels between the products."""
    options = launch_options(f"conditioned_transition.{kernel}", units)
    grid = (tiles(units.numel(), options["BLOCK"]),)
    sizes = units.numel(), units.shape[-1]
    launch(f"conditioned_transition.{kernel}", grid, wide, units, *sizes, **options)


def _open_gate(x: Tensor, gate: Tensor, beside: Tensor | None, out: Tensor) -> None:
    """X as far as its gate is open, plus what is beside it."""
    _groups, samples, rows = sizes(x, gate)
    options = launch_options("conditioned_transition.open_gate", x)
    launch(
        "conditioned_transition.open_gate",
        (tiles(x.numel(), options["BLOCK"]),),
        *(x, gate, x if beside is None else beside, out),
        *(rows * x.shape[-1], samples, x.numel()),
        BESIDE=beside is not None,
        **options,
    )


def _rows(tensor: Tensor) -> Tensor:
    """[row, c] of all samples."""
    return tensor.view(-1, tensor.shape[-1])


def _at_once(a: Tensor, weight_out: Tensor) -> int:
    rows = a.numel() // a.shape[-1]
    return min(rows, max(ROWS_AT_ONCE, a.numel() // (3 * weight_out.shape[1])))


def _parts(a: Tensor, weight_out: Tensor) -> Iterator[slice]:
    rows, at_once = a.numel() // a.shape[-1], _at_once(a, weight_out)
    for first in range(0, rows, at_once):
        yield slice(first, min(first + at_once, rows))


def _hidden(a: Tensor, weight_out: Tensor) -> tuple[Tensor, Tensor]:
    """Scratch for the hidden units of some rows, and for what is projected to them."""
    rows, hidden = _at_once(a, weight_out), weight_out.shape[1]
    units, wide = (
        workspace(f"conditioned_transition.{name}", (rows, width), dtype=a.dtype, device=a.device)
        for name, width in (("units", hidden), ("projected", 2 * hidden))
    )
    return units, wide


def _scratch(name: str, like: Tensor) -> Tensor:
    return workspace(
        f"conditioned_transition.{name}", like.shape, dtype=like.dtype, device=like.device
    )
