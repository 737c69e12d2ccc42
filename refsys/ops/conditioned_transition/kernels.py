"""Conditioned transition in Triton.

One kernel processes rows of up to a tile's width. For wider ones the matrix products are the
vendor's, some rows at a time, and the kernels here do the steps between them.

Shape suffixes: R rows of a tile, C channels, padded to a power of two, H hidden units, E elements.
"""

import triton
import triton.language as tl

from refsys.ops.adaptive_layer_norm.kernels import load_conditioned, load_open
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
    """Compute one tile of the rows of one sample."""
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    sample = tl.cast(tl.program_id(1), tl.int64)
    offset, shared = sample * rows * WIDTH, sample // samples * rows * WIDTH
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC = load_conditioned(
        a + offset,
        scale + shared,
        shift + shared,
        first,
        channel_C,
        rows,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
    )
    update_RC = swiglu_linear(
        y_RC, weight_in, weight_out, channel_C, hidden, WIDTH, BLOCK_HIDDEN, EVEN
    )
    open_RC = load_open(gate + shared, first, channel_C, rows, BLOCK_ROWS, WIDTH)
    a_RC = load_rows(a + offset, first, channel_C, rows, BLOCK_ROWS, WIDTH, "evict_first")
    out_RC = a_RC.to(tl.float32) + open_RC * update_RC
    store_rows(out + offset, first, channel_C, rows, out_RC, BLOCK_ROWS, WIDTH)


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
    dupdate,
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
    """Compute the gradient of the norm's result, for one tile of the rows of one sample.

    The norm's result is stored in `y`, the update in `update` and its gradient in `dupdate`.
    """
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    sample = tl.cast(tl.program_id(1), tl.int64)
    offset, shared = sample * rows * WIDTH, sample // samples * rows * WIDTH
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC = load_conditioned(
        a + offset,
        scale + shared,
        shift + shared,
        first,
        channel_C,
        rows,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
    )
    store_rows(y + offset, first, channel_C, rows, y_RC, BLOCK_ROWS, WIDTH)
    open_RC = load_open(gate + shared, first, channel_C, rows, BLOCK_ROWS, WIDTH)
    grad_RC = load_rows(grad + offset, first, channel_C, rows, BLOCK_ROWS, WIDTH, "")
    dupdate_RC = (grad_RC.to(tl.float32) * open_RC).to(y_RC.dtype)
    store_rows(dupdate + offset, first, channel_C, rows, dupdate_RC, BLOCK_ROWS, WIDTH)
    dy_RC, update_RC = swiglu_linear_backward(
        y_RC, dupdate_RC, weight_in, weight_out, channel_C, hidden, True, WIDTH, BLOCK_HIDDEN, EVEN
    )
    store_rows(dy + offset, first, channel_C, rows, dy_RC, BLOCK_ROWS, WIDTH)
    store_rows(update + offset, first, channel_C, rows, update_RC, BLOCK_ROWS, WIDTH)


@triton.jit
def _elements(total, BLOCK: tl.constexpr):
    """Return the indices of this program's elements over all rows, and which exist."""
    element_E = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return element_E, element_E < total


@triton.jit
def open_gate(
    x, gate, residual, out, size, samples, total, BESIDE: tl.constexpr, BLOCK: tl.constexpr
):
    """Compute residual + sigmoid(gate) · x.

    `size` is that of one sample, `total` of all; a gate is shared by `samples` samples.
    """
    element_E, inside_E = _elements(total, BLOCK)
    shared_E = element_E // size // samples * size + element_E % size
    open_E = tl.sigmoid(tl.load(gate + shared_E, mask=inside_E, other=0.0).to(tl.float32))
    out_E = tl.load(x + element_E, mask=inside_E, other=0.0).to(tl.float32) * open_E
    if BESIDE:
        out_E += tl.load(residual + element_E, mask=inside_E, other=0.0).to(tl.float32)
    tl.store(out + element_E, out_E.to(out.dtype.element_ty), mask=inside_E)


@triton.jit
def _load_projected(wide, element_E, inside_E, hidden):
    """Load both projections for hidden units; return them and the pointers of the gate's half."""
    gates = wide + (element_E // hidden * (2 * hidden) + element_E % hidden)
    gate_E = tl.load(gates, mask=inside_E, other=0.0).to(tl.float32)
    value_E = tl.load(gates + hidden, mask=inside_E, other=0.0).to(tl.float32)
    return gate_E, value_E, gates


@triton.jit
def swiglu(wide, units, total, hidden, BLOCK: tl.constexpr):
    """Compute the hidden units [row, H] from their two projections, [row, 2H]."""
    element_E, inside_E = _elements(total, BLOCK)
    gate_E, value_E, _gates = _load_projected(wide, element_E, inside_E, hidden)
    unit_E = gate_E * tl.sigmoid(gate_E) * value_E
    tl.store(units + element_E, unit_E.to(units.dtype.element_ty), mask=inside_E)


@triton.jit
def swiglu_backward(wide, units, total, hidden, BLOCK: tl.constexpr):
    """Replace the projections by their gradient, and the units' gradient by the units."""
    element_E, inside_E = _elements(total, BLOCK)
    gate_E, value_E, gates = _load_projected(wide, element_E, inside_E, hidden)
    dunit_E = tl.load(units + element_E, mask=inside_E, other=0.0).to(tl.float32)
    unit_E, dgate_E, dvalue_E = slopes(gate_E, value_E, dunit_E, units.dtype.element_ty)
    tl.store(units + element_E, unit_E, mask=inside_E)
    tl.store(gates, dgate_E, mask=inside_E)
    tl.store(gates + hidden, dvalue_E, mask=inside_E)
