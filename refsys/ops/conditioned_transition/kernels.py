"""Conditioned transition in Triton.

Rows of up to a tile's width go through it in one kernel. Of wider ones the matrix products are the
vendor's, some rows at a time, and what is between them is here.

Shape suffixes: R rows of a tile, C channels, padded to a power of two, H hidden units, E elements.
"""

import triton
import triton.language as tl

from refsys.ops.adaptive_layer_norm.kernels import load_open, load_steered
from refsys.ops.layer_norm.kernels import load_rows, store_rows
from refsys.ops.transition.kernels import slopes, swiglu_linear, swiglu_linear_backward


@triton.jit(do_not_specialize=["rows", "samples"])
def forward(
    a,
    scale,
    shift,
    gate,
    weight_in,
    weight_out,
    out,
    rows,
    samples,
    hidden,
    epsilon,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
):
    """One tile of the rows of one sample."""
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    sample = tl.cast(tl.program_id(1), tl.int64)
    own, shared = sample * rows * WIDTH, sample // samples * rows * WIDTH
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC = load_steered(
        *(a + own, scale + shared, shift + shared),
        *(first, channel_C, rows, epsilon, BLOCK_ROWS, WIDTH),
    )
    update_RC = swiglu_linear(
        y_RC, weight_in, weight_out, channel_C, hidden, WIDTH, BLOCK_HIDDEN, EVEN
    )
    open_RC = load_open(gate + shared, first, channel_C, rows, BLOCK_ROWS, WIDTH)
    a_RC = load_rows(a + own, first, channel_C, rows, BLOCK_ROWS, WIDTH, "evict_first")
    out_RC = a_RC.to(tl.float32) + open_RC * update_RC
    store_rows(out + own, first, channel_C, rows, out_RC, BLOCK_ROWS, WIDTH)


@triton.jit(do_not_specialize=["rows", "samples"])
def backward_rows(
    a,
    scale,
    shift,
    gate,
    weight_in,
    weight_out,
    grad,
    y,
    towards,
    dy,
    update,
    rows,
    samples,
    hidden,
    epsilon,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
):
    """The gradient of what the norm gave, for one tile of the rows of one sample.

    What it gave is left in `y`, the gradient of the update in `towards`, and the update itself.
    """
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    sample = tl.cast(tl.program_id(1), tl.int64)
    own, shared = sample * rows * WIDTH, sample // samples * rows * WIDTH
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC = load_steered(
        *(a + own, scale + shared, shift + shared),
        *(first, channel_C, rows, epsilon, BLOCK_ROWS, WIDTH),
    )
    store_rows(y + own, first, channel_C, rows, y_RC, BLOCK_ROWS, WIDTH)
    open_RC = load_open(gate + shared, first, channel_C, rows, BLOCK_ROWS, WIDTH)
    grad_RC = load_rows(grad + own, first, channel_C, rows, BLOCK_ROWS, WIDTH, "")
    towards_RC = (grad_RC.to(tl.float32) * open_RC).to(y_RC.dtype)
    store_rows(towards + own, first, channel_C, rows, towards_RC, BLOCK_ROWS, WIDTH)
    dy_RC, update_RC = swiglu_linear_backward(
        *(y_RC, towards_RC, weight_in, weight_out, channel_C, hidden),
        *(True, WIDTH, BLOCK_HIDDEN, EVEN),
    )
    store_rows(dy + own, first, channel_C, rows, dy_RC, BLOCK_ROWS, WIDTH)
    store_rows(update + own, first, channel_C, rows, update_RC, BLOCK_ROWS, WIDTH)


@triton.jit
def _places(total, BLOCK: tl.constexpr):
    """This program's elements, counted through all rows, and which exist."""
    place_E = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return place_E, place_E < total


@triton.jit
def open_gate(
    x, gate, beside, out, size, samples, total, BESIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """X as far as its gate is open, plus what is `beside` it.

    `size` is that of one sample, `total` of all; a gate is shared by so many samples.
    """
    place_E, inside_E = _places(total, BLOCK)
    shared_E = place_E // size // samples * size + place_E % size
    open_E = tl.sigmoid(tl.load(gate + shared_E, mask=inside_E, other=0.0).to(tl.float32))
    out_E = tl.load(x + place_E, mask=inside_E, other=0.0).to(tl.float32) * open_E
    if BESIDE:
        out_E += tl.load(beside + place_E, mask=inside_E, other=0.0).to(tl.float32)
    tl.store(out + place_E, out_E.to(out.dtype.element_ty), mask=inside_E)


@triton.jit
def _load_projected(wide, place_E, inside_E, hidden):
    """What both projections gave for hidden units; and where, the gate's half of [row, 2H]."""
    gates = wide + (place_E // hidden * (2 * hidden) + place_E % hidden)
    gate_E = tl.load(gates, mask=inside_E, other=0.0).to(tl.float32)
    value_E = tl.load(gates + hidden, mask=inside_E, other=0.0).to(tl.float32)
    return gate_E, value_E, gates


@triton.jit
def swiglu(wide, units, total, hidden, BLOCK: tl.constexpr):
    """The hidden units [row, H] of what their two projections gave, [row, 2H]."""
    place_E, inside_E = _places(total, BLOCK)
    gate_E, value_E, _gates = _load_projected(wide, place_E, inside_E, hidden)
    unit_E = gate_E * tl.sigmoid(gate_E) * value_E
    tl.store(units + place_E, unit_E.to(units.dtype.element_ty), mask=inside_E)


@triton.jit
def swiglu_backward(wide, units, total, hidden, BLOCK: tl.constexpr):
    """In place: of what the projections gave, its gradient; of that of the units, the units."""
    place_E, inside_E = _places(total, BLOCK)
    gate_E, value_E, gates = _load_projected(wide, place_E, inside_E, hidden)
    towards_E = tl.load(units + place_E, mask=inside_E, other=0.0).to(tl.float32)
    unit_E, dgate_E, dvalue_E = slopes(gate_E, value_E, towards_E, units.dtype.element_ty)
    tl.store(units + place_E, unit_E, mask=inside_E)
    tl.store(gates, dgate_E, mask=inside_E)
    tl.store(gates + hidden, dvalue_E, mask=inside_E)
