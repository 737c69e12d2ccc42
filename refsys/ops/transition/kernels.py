"""Transition in Triton: LayerNorm, SwiGLU, linear and residual, a tile of rows at a time.

Nothing as wide as the hidden layer leaves a program: hidden units are computed by chunks and are
never stored.

Shape suffixes: R rows of a tile, C channels, padded to a power of two, H a chunk of hidden units.
"""

import triton
import triton.language as tl

from refsys.ops.layer_norm.kernels import (
    load_normalized,
    load_rows,
    normalize_backward,
    store_norm_gradients,
    store_rows,
)


@triton.jit
def load_weights(
    weight_in, weight_out, unit_H, channel_C, hidden, WIDTH: tl.constexpr, EVEN: tl.constexpr
):
    """Load a chunk's weights: gate and value [H, C], and output [C, H]; 0 outside."""
    rows_HC = unit_H[:, None] * WIDTH + channel_C[None, :]
    gates = weight_in + rows_HC
    values = weight_in + hidden * WIDTH + rows_HC
    outs = weight_out + channel_C[:, None] * hidden + unit_H[None, :]
    if EVEN:
        return tl.load(gates), tl.load(values), tl.load(outs)
    inside_HC = (unit_H < hidden)[:, None] & (channel_C < WIDTH)[None, :]
    inside_CH = (channel_C < WIDTH)[:, None] & (unit_H < hidden)[None, :]
    return (
        tl.load(gates, mask=inside_HC, other=0.0),
        tl.load(values, mask=inside_HC, other=0.0),
        tl.load(outs, mask=inside_CH, other=0.0),
    )


@triton.jit
def swiglu_linear(
    y_RC,
    weight_in,
    weight_out,
    channel_C,
    hidden,
    WIDTH: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Apply SwiGLU and the output layer to normalized rows by chunks; in float32."""
    out_RC = tl.zeros(y_RC.shape, tl.float32)
    for first in range(0, hidden, BLOCK_HIDDEN):
        unit_H = first + tl.arange(0, BLOCK_HIDDEN)
        gate_HC, value_HC, out_CH = load_weights(
            weight_in, weight_out, unit_H, channel_C, hidden, WIDTH, EVEN
        )
        gate_RH = tl.dot(y_RC, tl.trans(gate_HC), input_precision="ieee")
        value_RH = tl.dot(y_RC, tl.trans(value_HC), input_precision="ieee")
        hidden_RH = (gate_RH * tl.sigmoid(gate_RH) * value_RH).to(y_RC.dtype)
        out_RC = tl.dot(hidden_RH, tl.trans(out_CH), out_RC, input_precision="ieee")
    return out_RC


@triton.jit(do_not_specialize=["rows"])
def forward(
    x,
    norm_weight,
    norm_bias,
    weight_in,
    weight_out,
    out,
    rows,
    hidden,
    epsilon,
    RESIDUAL: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Compute one tile of rows."""
    first_row = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC, _hat_RC, _rsigma_R, _scale_C = load_normalized(
        x, norm_weight, norm_bias, first_row, channel_C, rows, epsilon, BLOCK_ROWS, WIDTH, ""
    )
    out_RC = swiglu_linear(
        y_RC, weight_in, weight_out, channel_C, hidden, WIDTH, BLOCK_HIDDEN, EVEN
    )
    if RESIDUAL:
        out_RC += load_rows(x, first_row, channel_C, rows, BLOCK_ROWS, WIDTH, "evict_first").to(
            tl.float32
        )
    store_rows(out, first_row, channel_C, rows, out_RC, BLOCK_ROWS, WIDTH)


@triton.jit
def slopes(gate, value, dhidden, dtype: tl.constexpr):
    """Return hidden units, and the gradients of their gates and values, from that of the units."""
    open_ = tl.sigmoid(gate)
    swish = gate * open_
    dgate = dhidden * value * (open_ + swish * (1.0 - open_))
    return (swish * value).to(dtype), dgate.to(dtype), (dhidden * swish).to(dtype)


@triton.jit
def swiglu_linear_backward(
    y_RC,
    grad_RC,
    weight_in,
    weight_out,
    channel_C,
    hidden,
    UPDATE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Return the gradient of normalized rows and, with `UPDATE`, their update; in float32."""
    dy_RC = tl.zeros(y_RC.shape, tl.float32)
    update_RC = tl.zeros(y_RC.shape, tl.float32)
    for first in range(0, hidden, BLOCK_HIDDEN):
        unit_H = first + tl.arange(0, BLOCK_HIDDEN)
        gate_HC, value_HC, out_CH = load_weights(
            weight_in, weight_out, unit_H, channel_C, hidden, WIDTH, EVEN
        )
        gate_RH = tl.dot(y_RC, tl.trans(gate_HC), input_precision="ieee")
        value_RH = tl.dot(y_RC, tl.trans(value_HC), input_precision="ieee")
        dhidden_RH = tl.dot(grad_RC, out_CH, input_precision="ieee")
        hidden_RH, dgate_RH, dvalue_RH = slopes(gate_RH, value_RH, dhidden_RH, y_RC.dtype)
        dy_RC = tl.dot(dgate_RH, gate_HC, dy_RC, input_precision="ieee")
        dy_RC = tl.dot(dvalue_RH, value_HC, dy_RC, input_precision="ieee")
        if UPDATE:
            update_RC = tl.dot(hidden_RH, tl.trans(out_CH), update_RC, input_precision="ieee")
    return dy_RC, update_RC


@triton.jit(do_not_specialize=["rows"])
def backward_rows(
    x,
    norm_weight,
    norm_bias,
    weight_in,
    weight_out,
    grad,
    dx,
    y,
    partials,
    rows,
    hidden,
    epsilon,
    RESIDUAL: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Compute the gradient of x for a tile of rows, and those of scale and offset, summed over it.

    The result of LayerNorm is stored in `y`; `partials` is [program, 2, WIDTH].
    """
    program = tl.cast(tl.program_id(0), tl.int64)
    first_row = program * BLOCK_ROWS
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC, _hat_RC, _rsigma_R, _scale_C = load_normalized(
        x, norm_weight, norm_bias, first_row, channel_C, rows, epsilon, BLOCK_ROWS, WIDTH, ""
    )
    store_rows(y, first_row, channel_C, rows, y_RC, BLOCK_ROWS, WIDTH)
    grad_RC = load_rows(grad, first_row, channel_C, rows, BLOCK_ROWS, WIDTH, "")
    dy_RC, _update_RC = swiglu_linear_backward(
        y_RC, grad_RC, weight_in, weight_out, channel_C, hidden, False, WIDTH, BLOCK_HIDDEN, EVEN
    )
    # Normalized again, to free the registers in between. The hint keeps the compiler from merging
    # both loads.
    _y_RC, hat_RC, rsigma_R, scale_C = load_normalized(
        x,
        norm_weight,
        norm_bias,
        first_row,
        channel_C,
        rows,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
        "evict_first",
    )
    store_norm_gradients(partials, program, dy_RC, hat_RC, channel_C, WIDTH)
    dx_RC = normalize_backward(dy_RC * scale_C[None, :], hat_RC, rsigma_R, WIDTH)
    if RESIDUAL:
        dx_RC += load_rows(grad, first_row, channel_C, rows, BLOCK_ROWS, WIDTH, "evict_first").to(
            tl.float32
        )
    store_rows(dx, first_row, channel_C, rows, dx_RC, BLOCK_ROWS, WIDTH)


# `rows` is specialized: wide rows leave no registers for the mask of an uneven number of them.
@triton.jit(do_not_specialize=["tiles_per_part"])
def backward_weights(
    y,
    weight_in,
    weight_out,
    grad,
    partials,
    rows,
    hidden,
    tiles_per_part,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_HIDDEN: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Compute the gradients of a chunk's weights, summed over the tiles of a part, in order.

    `partials` is [part of the rows, 3 · hidden · WIDTH]: a full `weight_in`, then a `weight_out`.
    """
    chunks = tl.cdiv(hidden, BLOCK_HIDDEN)
    unit_H = tl.program_id(0) % chunks * BLOCK_HIDDEN + tl.arange(0, BLOCK_HIDDEN)
    part = tl.program_id(0) // chunks
    channel_C = tl.arange(0, BLOCK_WIDTH)
    gate_HC, value_HC, out_CH = load_weights(
        weight_in, weight_out, unit_H, channel_C, hidden, WIDTH, EVEN
    )
    dgate_CH = tl.zeros([BLOCK_WIDTH, BLOCK_HIDDEN], tl.float32)
    dvalue_CH = tl.zeros([BLOCK_WIDTH, BLOCK_HIDDEN], tl.float32)
    dout_CH = tl.zeros([BLOCK_WIDTH, BLOCK_HIDDEN], tl.float32)
    for tile in range(part * tiles_per_part, part * tiles_per_part + tiles_per_part):
        first_row = tl.cast(tile, tl.int64) * BLOCK_ROWS
        y_RC = load_rows(y, first_row, channel_C, rows, BLOCK_ROWS, WIDTH, "")
        grad_RC = load_rows(grad, first_row, channel_C, rows, BLOCK_ROWS, WIDTH, "")
        gate_RH = tl.dot(y_RC, tl.trans(gate_HC), input_precision="ieee")
        value_RH = tl.dot(y_RC, tl.trans(value_HC), input_precision="ieee")
        dhidden_RH = tl.dot(grad_RC, out_CH, input_precision="ieee")
        hidden_RH, dgate_RH, dvalue_RH = slopes(gate_RH, value_RH, dhidden_RH, y_RC.dtype)
        dgate_CH = tl.dot(tl.trans(y_RC), dgate_RH, dgate_CH, input_precision="ieee")
        dvalue_CH = tl.dot(tl.trans(y_RC), dvalue_RH, dvalue_CH, input_precision="ieee")
        dout_CH = tl.dot(tl.trans(grad_RC), hidden_RH, dout_CH, input_precision="ieee")
    size = hidden * WIDTH
    partials += tl.cast(part, tl.int64) * 3 * size
    inside_CH = (channel_C < WIDTH)[:, None] & (unit_H < hidden)[None, :]
    transposed_CH = unit_H[None, :] * WIDTH + channel_C[:, None]
    tl.store(partials + transposed_CH, dgate_CH, mask=inside_CH)
    tl.store(partials + size + transposed_CH, dvalue_CH, mask=inside_CH)
    outs_CH = channel_C[:, None] * hidden + unit_H[None, :]
    tl.store(partials + 2 * size + outs_CH, dout_CH, mask=inside_CH)
