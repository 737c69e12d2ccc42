"""Conditioned transition on Triton kernels, as one custom operator.

Only the inputs are saved for backward, which recomputes the rest. Tensors wider than `a` exist for
some rows at a time.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.adaptive_layer_norm import triton as adaptive_layer_norm
from refsys.ops.adaptive_layer_norm.triton import EPSILON, GatedBlock, sizes
from refsys.ops.planes.triton import PartialSums, outer, reduce
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

# Wide rows at a time: enough for the vendor's products, or as many as keep tensors three times as
# wide as the hidden layer no larger than all rows of `a`.
ROWS_AT_ONCE = 4096


class Inputs(NamedTuple):
    """Inputs of the operator, in the order of its schema; shapes in a FLOP formula.

    Attributes:
        a: [batch, sample, row, c].
        scale: [batch, 1 or sample, row, c] logits.
        shift: Shape of `scale`.
        gate: Logits, shape of `scale`.
        weight_in: [2h, c].
        weight_out: [c, h].
    """

    a: Any
    scale: Any
    shift: Any
    gate: Any
    weight_in: Any
    weight_out: Any

    def for_kernels(self) -> "Inputs":
        """Return the inputs, dense, and the weights in the dtype of a."""
        dtype = self.a.dtype
        a, scale, shift, gate = (
            dense("conditioned_transition.input", tensor, dtype)
            for tensor in (self.a, self.scale, self.shift, self.gate)
        )
        weight_in = in_dtype("conditioned_transition.weight_in", self.weight_in, dtype)
        weight_out = in_dtype("conditioned_transition.weight_out", self.weight_out, dtype)
        return Inputs(a, scale, shift, gate, weight_in, weight_out)


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
    inputs = Inputs(a, scale, shift, gate, weight_in, weight_out).for_kernels()
    out = a.new_empty(a.shape)
    if a.shape[-1] <= WIDE:
        _launch_rows("forward", inputs, out)
        return out
    a, scale, shift, gate, weight_in, weight_out = inputs
    adaptive_layer_norm.run(a, scale, shift, y := _scratch("normalized", a))
    units, wide = _hidden(a, weight_out)
    for rows in _parts(a, weight_out):
        count = _project(y, weight_in, rows, wide)
        _launch_units("swiglu", wide[:count], units[:count])
        product(_rows(out)[rows], units[:count], weight_out.t())
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
    """Return the gradients of a, scale, shift and gate; of both weights, flat [3hc]."""
    inputs = Inputs(a, scale, shift, gate, weight_in, weight_out).for_kernels()
    grad = dense("conditioned_transition.gradient", grad, a.dtype)
    scratch = _Intermediates(*(_scratch(name, grad) for name in _Intermediates._fields))
    run = _narrow_backward if a.shape[-1] <= WIDE else _wide_backward
    dweights, reduction = run(grad, inputs, scratch, weight_in)
    block = GatedBlock(inputs.gate, grad, scratch.update)
    gradients = adaptive_layer_norm.run_backward(inputs.a, inputs.scale, scratch.dnormalized, block)
    reduce(reduction)
    return *gradients, dweights


class _Intermediates(NamedTuple):
    """Intermediates of backward, each with the shape of a.

    Attributes:
        normalized: Result of the norm.
        dnormalized: Its gradient.
        update: Update that the gate multiplies.
        towards: Its gradient.
    """

    normalized: Tensor
    dnormalized: Tensor
    update: Tensor
    towards: Tensor


def _narrow_backward(
    grad: Tensor, inputs: Inputs, scratch: _Intermediates, like: Tensor
) -> tuple[Tensor, PartialSums]:
    """Fill `scratch`; return the weights' gradients, in the dtype of `like`, and a reduction."""
    y, dy, update, dupdate = scratch
    _launch_rows("backward_rows", inputs, grad, y, dupdate, dy, update)
    return backward_weights(y, inputs.weight_in, inputs.weight_out, dupdate, like)


def _wide_backward(
    grad: Tensor, inputs: Inputs, scratch: _Intermediates, like: Tensor
) -> tuple[Tensor, PartialSums]:
    """Do the same as `_narrow_backward` for wide rows, some at a time."""
    a, scale, shift, gate, weight_in, weight_out = inputs
    y, dy, update, dupdate = scratch
    adaptive_layer_norm.run(a, scale, shift, y)
    _open_gate(grad, gate, None, dupdate)
    units, wide = _hidden(a, weight_out)
    parts = list(_parts(a, weight_out))
    partials = workspace(
        "conditioned_transition.weight_planes",
        (1, len(parts), 3 * weight_out.numel()),
        dtype=torch.float32,
        device=a.device,
    )
    for number, rows in enumerate(parts):
        count = _project(y, weight_in, rows, wide)
        product(units[:count], _rows(dupdate)[rows], weight_out)
        _launch_units("swiglu_backward", wide[:count], units[:count])
        product(_rows(update)[rows], units[:count], weight_out.t())
        product(_rows(dy)[rows], wide[:count], weight_in)
        first, second = partials[0, number].split([weight_in.numel(), weight_out.numel()])
        outer(wide[:count], _rows(y)[rows], first.view(weight_in.shape), parts=1)
        outer(_rows(dupdate)[rows], units[:count], second.view(weight_out.shape), parts=1)
    dweights = like.new_empty(partials.shape[-1:])
    return dweights, PartialSums(partials, dweights.unsqueeze(0))


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    inputs = Inputs(*ctx.saved_tensors)
    *gradients, dweights = backward(grad, *inputs)
    weights = inputs.weight_in, inputs.weight_out
    parts = dweights.split([weight.numel() for weight in weights])
    return *gradients, *(d.view(w.shape) for d, w in zip(parts, weights, strict=True))


forward.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.foldperf.conditioned_transition)
def _flops(*shapes: Any, **_options: Any) -> int:
    inputs = Inputs(*shapes)
    matrices = math.prod(inputs.weight_in) + math.prod(inputs.weight_out)
    return 2 * math.prod(inputs.a[:-1]) * matrices


@register_flop_formula(torch.ops.foldperf.conditioned_transition_backward)
def _backward_flops(_grad: Any, *shapes: Any, **_options: Any) -> int:
    """Return twice the products of forward; recomputation is not counted."""
    return 2 * _flops(*shapes)


def _launch_rows(kernel: str, inputs: Inputs, *tensors: Tensor) -> None:
    """Start one of the kernels that do the full computation for narrow rows."""
    groups, samples, rows = sizes(inputs.a, inputs.scale)
    width, hidden = inputs.weight_out.shape
    options = launch_options(f"conditioned_transition.{kernel}", inputs.a)
    padded = padded_width(width)
    even = width == padded and hidden % options["BLOCK_HIDDEN"] == 0
    launch(
        f"conditioned_transition.{kernel}",
        (tiles(rows, options["BLOCK_ROWS"]), groups * samples),
        *inputs,
        *tensors,
        rows,
        samples,
        hidden,
        EPSILON,
        **options | {"WIDTH": width, "BLOCK_WIDTH": padded, "EVEN": even},
    )


def _project(y: Tensor, weight_in: Tensor, rows: slice, wide: Tensor) -> int:
    """Write both projections of some rows to the first rows of `wide`; return their number."""
    count = rows.stop - rows.start
    product(wide[:count], _rows(y)[rows], weight_in.t())
    return count


def _launch_units(kernel: str, wide: Tensor, units: Tensor) -> None:
    """Start one of the kernels between the products."""
    options = launch_options(f"conditioned_transition.{kernel}", units)
    grid = (tiles(units.numel(), options["BLOCK"]),)
    sizes = units.numel(), units.shape[-1]
    launch(f"conditioned_transition.{kernel}", grid, wide, units, *sizes, **options)


def _open_gate(x: Tensor, gate: Tensor, residual: Tensor | None, out: Tensor) -> None:
    """Write residual + sigmoid(gate) · x to `out`."""
    _groups, samples, rows = sizes(x, gate)
    options = launch_options("conditioned_transition.open_gate", x)
    launch(
        "conditioned_transition.open_gate",
        (tiles(x.numel(), options["BLOCK"]),),
        x,
        gate,
        x if residual is None else residual,
        out,
        rows * x.shape[-1],
        samples,
        x.numel(),
        BESIDE=residual is not None,
        **options,
    )


def _rows(tensor: Tensor) -> Tensor:
    """Return a view [row, c] of the rows of all samples."""
    return tensor.view(-1, tensor.shape[-1])


def _at_once(a: Tensor, weight_out: Tensor) -> int:
    rows = a.numel() // a.shape[-1]
    return min(rows, max(ROWS_AT_ONCE, a.numel() // (3 * weight_out.shape[1])))


def _parts(a: Tensor, weight_out: Tensor) -> Iterator[slice]:
    rows, at_once = a.numel() // a.shape[-1], _at_once(a, weight_out)
    for first in range(0, rows, at_once):
        yield slice(first, min(first + at_once, rows))


def _hidden(a: Tensor, weight_out: Tensor) -> tuple[Tensor, Tensor]:
    """Return scratch for the hidden units of some rows, and for their projections."""
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
