"""LayerNorm and the linear layers that read it, in one pass over the positions.

Rows of up to a tile's width are normalized once and held in registers; wider ones are read in
chunks, twice for their statistics and once more for every chunk of output channels. The strides of
x are free; the output is dense, and so is the bias of the heads: [batch, head, row · token].

Shape suffixes: R positions of a tile, C channels, O a chunk of output channels, H heads; C and H
are padded to powers of two.
"""

import triton
import triton.language as tl

from refsys.ops.layer_norm.kernels import (
    load_columns,
    load_rows,
    normalize,
    normalize_backward,
    scale_and_shift,
    store_columns,
    store_norm_gradients,
    store_rows,
)
from refsys.ops.layer_norm.positions import load_positions, positions_at, store_positions
from refsys.ops.specialization.kernels import in_units


@triton.jit
def _load_matrix(weight, row_O, column_C, rows, columns, row_stride, column_stride):
    """Load [O, C] of a [rows, columns] matrix; 0 outside."""
    pointers = weight + (row_O[:, None] * row_stride + column_C[None, :] * column_stride)
    inside_OC = (row_O < rows)[:, None] & (column_C < columns)[None, :]
    return tl.load(pointers, mask=inside_OC, other=0.0)


@triton.jit
def _planar(base, position_R, inside_R, head_H, positions, HEADS: tl.constexpr):
    """Return pointers [R, H] into a dense [HEADS, positions] tensor, and which are inside."""
    pointers = base + tl.cast(head_H, tl.int64)[None, :] * positions + position_R[:, None]
    return pointers, inside_R[:, None] & (head_H < HEADS)[None, :]


@triton.jit
def _add_bias(out_RO, bias, out_O, BIAS: tl.constexpr):
    """Add the bias of the first `BIAS` output channels."""
    bias_O = tl.load(bias + out_O, mask=out_O < BIAS, other=0.0)
    return out_RO + bias_O.to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["tokens", "positions"])
def forward(
    x,
    x_strides,
    norm_weight,
    norm_bias,
    weight,
    bias,
    weight_heads,
    out,
    heads,
    tokens,
    positions,
    epsilon,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute one tile of positions, normalized once; their number is a multiple of UNIT."""
    positions = in_units(positions, UNIT)
    batch = tl.cast(tl.program_id(1), tl.int64)
    first = tl.program_id(0) * BLOCK_ROWS
    offset_R, inside_R = positions_at(x_strides, first, positions, tokens, BLOCK_ROWS)
    channel_C = tl.arange(0, BLOCK_WIDTH)
    x += batch * x_strides[0]
    x_RC = load_positions(x, offset_R, inside_R, channel_C, WIDTH, "")
    hat_RC, _rsigma_R = normalize(x_RC.to(tl.float32), channel_C, epsilon, WIDTH)
    y_RC, _scale_C = scale_and_shift(hat_RC, norm_weight, norm_bias, channel_C, SCALE, SHIFT, WIDTH)
    y_RC = y_RC.to(x.dtype.element_ty)
    if OUT > 0:
        out += batch * positions * OUT
        for first_out in range(0, OUT, BLOCK_OUT):
            out_O = first_out + tl.arange(0, BLOCK_OUT)
            weight_OC = _load_matrix(weight, out_O, channel_C, OUT, WIDTH, WIDTH, 1)
            out_RO = tl.dot(y_RC, tl.trans(weight_OC), input_precision="ieee")
            if BIAS > 0:
                out_RO = _add_bias(out_RO, bias, out_O, BIAS)
            store_rows(out, tl.cast(first, tl.int64), out_O, positions, out_RO, BLOCK_ROWS, OUT)
    if HEADS > 0:
        head_H = tl.arange(0, BLOCK_HEADS)
        weight_HC = _load_matrix(weight_heads, head_H, channel_C, HEADS, WIDTH, WIDTH, 1)
        logits_RH = tl.dot(y_RC, tl.trans(weight_HC), input_precision="ieee")
        pointers, inside_RH = _planar(
            heads + batch * positions * HEADS,
            first + tl.arange(0, BLOCK_ROWS),
            inside_R,
            head_H,
            positions,
            HEADS,
        )
        tl.store(pointers, logits_RH.to(heads.dtype.element_ty), mask=inside_RH)


@triton.jit
def _statistics(x, offset_R, inside_R, epsilon, WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr):
    """Return mean and 1 / σ of rows too wide for a tile."""
    sum_R = tl.zeros([offset_R.shape[0]], tl.float32)
    for first in range(0, WIDTH, BLOCK_WIDTH):
        channel_C = first + tl.arange(0, BLOCK_WIDTH)
        x_RC = load_positions(x, offset_R, inside_R, channel_C, WIDTH, "").to(tl.float32)
        sum_R += tl.sum(x_RC, 1)
    mean_R = sum_R / WIDTH
    square_R = tl.zeros([offset_R.shape[0]], tl.float32)
    for first in range(0, WIDTH, BLOCK_WIDTH):
        channel_C = first + tl.arange(0, BLOCK_WIDTH)
        x_RC = load_positions(x, offset_R, inside_R, channel_C, WIDTH, "").to(tl.float32)
        centred_RC = tl.where((channel_C < WIDTH)[None, :], x_RC - mean_R[:, None], 0.0)
        square_R += tl.sum(centred_RC * centred_RC, 1)
    return mean_R, tl.rsqrt(square_R / WIDTH + epsilon)


@triton.jit
def _hat(x, offset_R, inside_R, channel_C, mean_R, rsigma_R, WIDTH: tl.constexpr):
    """Load a chunk of channels as (x − mean) / σ; 0 beyond the width."""
    x_RC = load_positions(x, offset_R, inside_R, channel_C, WIDTH, "").to(tl.float32)
    hat_RC = (x_RC - mean_R[:, None]) * rsigma_R[:, None]
    return tl.where((channel_C < WIDTH)[None, :], hat_RC, 0.0)


@triton.jit(do_not_specialize=["tokens", "positions"])
def forward_wide(
    x,
    x_strides,
    norm_weight,
    norm_bias,
    weight,
    bias,
    out,
    tokens,
    positions,
    epsilon,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    BIAS: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute one tile of positions and of output channels."""
    batch = tl.cast(tl.program_id(1), tl.int64)
    first = tl.program_id(0) * BLOCK_ROWS
    offset_R, inside_R = positions_at(x_strides, first, positions, tokens, BLOCK_ROWS)
    x += batch * x_strides[0]
    mean_R, rsigma_R = _statistics(x, offset_R, inside_R, epsilon, WIDTH, BLOCK_WIDTH)
    out_O = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    out_RO = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    for first_channel in range(0, WIDTH, BLOCK_WIDTH):
        channel_C = first_channel + tl.arange(0, BLOCK_WIDTH)
        hat_RC = _hat(x, offset_R, inside_R, channel_C, mean_R, rsigma_R, WIDTH)
        y_RC, _scale_C = scale_and_shift(
            hat_RC, norm_weight, norm_bias, channel_C, SCALE, SHIFT, WIDTH
        )
        weight_OC = _load_matrix(weight, out_O, channel_C, OUT, WIDTH, WIDTH, 1)
        y_RC = y_RC.to(x.dtype.element_ty)
        out_RO = tl.dot(y_RC, tl.trans(weight_OC), out_RO, input_precision="ieee")
    if BIAS > 0:
        out_RO = _add_bias(out_RO, bias, out_O, BIAS)
    out += batch * positions * OUT
    store_rows(out, tl.cast(first, tl.int64), out_O, positions, out_RO, BLOCK_ROWS, OUT)


@triton.jit(do_not_specialize=["tokens", "positions"])
def backward(
    x,
    x_strides,
    norm_weight,
    norm_bias,
    weight,
    weight_heads,
    d,
    dheads,
    residual_grad,
    residual_strides,
    dx,
    dx_strides,
    y,
    norm_partials,
    head_partials,
    tokens,
    positions,
    epsilon,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    BESIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute the gradient of x for one tile of positions, plus `residual_grad`.

    The result of LayerNorm is stored in `y` for the weight's gradient. The gradients of scale and
    offset, and of the heads' weights, are summed over the tile: [program, 2, WIDTH] and
    [program, HEADS, WIDTH]. The number of positions is a multiple of UNIT.
    """
    positions = in_units(positions, UNIT)
    batch = tl.cast(tl.program_id(1), tl.int64)
    program = batch * tl.num_programs(0) + tl.program_id(0)
    first = tl.program_id(0) * BLOCK_ROWS
    offset_R, inside_R = positions_at(x_strides, first, positions, tokens, BLOCK_ROWS)
    channel_C = tl.arange(0, BLOCK_WIDTH)
    x += batch * x_strides[0]
    dy_RC = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    if OUT > 0:
        d += batch * positions * OUT
        for first_out in range(0, OUT, BLOCK_OUT):
            out_O = first_out + tl.arange(0, BLOCK_OUT)
            weight_OC = _load_matrix(weight, out_O, channel_C, OUT, WIDTH, WIDTH, 1)
            d_RO = load_rows(d, tl.cast(first, tl.int64), out_O, positions, BLOCK_ROWS, OUT, "")
            dy_RC = tl.dot(d_RO, weight_OC, dy_RC, input_precision="ieee")
    x_RC = load_positions(x, offset_R, inside_R, channel_C, WIDTH, "")
    hat_RC, rsigma_R = normalize(x_RC.to(tl.float32), channel_C, epsilon, WIDTH)
    y_RC, scale_C = scale_and_shift(hat_RC, norm_weight, norm_bias, channel_C, SCALE, SHIFT, WIDTH)
    y_RC = y_RC.to(x.dtype.element_ty)
    if OUT > 0:
        y += batch * positions * WIDTH
        store_rows(y, tl.cast(first, tl.int64), channel_C, positions, y_RC, BLOCK_ROWS, WIDTH)
    if HEADS > 0:
        head_H = tl.arange(0, BLOCK_HEADS)
        weight_HC = _load_matrix(weight_heads, head_H, channel_C, HEADS, WIDTH, WIDTH, 1)
        pointers, inside_RH = _planar(
            dheads + batch * positions * HEADS,
            first + tl.arange(0, BLOCK_ROWS),
            inside_R,
            head_H,
            positions,
            HEADS,
        )
        d_RH = tl.load(pointers, mask=inside_RH, other=0.0)
        dy_RC = tl.dot(d_RH, weight_HC, dy_RC, input_precision="ieee")
        # Rows beyond the last have a gradient of zero, whatever their y.
        dweight_HC = tl.dot(tl.trans(d_RH), y_RC, input_precision="ieee")
        offset = program * HEADS * WIDTH + (head_H[:, None] * WIDTH + channel_C[None, :])
        inside_HC = (head_H < HEADS)[:, None] & (channel_C < WIDTH)[None, :]
        tl.store(head_partials + offset, dweight_HC, mask=inside_HC)
    store_norm_gradients(norm_partials, program, dy_RC, hat_RC, channel_C, WIDTH)
    dx_RC = normalize_backward(dy_RC * scale_C[None, :], hat_RC, rsigma_R, WIDTH)
    if BESIDE:
        residual_grad += batch * residual_strides[0]
        residual_R, _inside_R = positions_at(residual_strides, first, positions, tokens, BLOCK_ROWS)
        dx_RC += load_positions(residual_grad, residual_R, inside_R, channel_C, WIDTH, "").to(
            tl.float32
        )
    dx_R, _inside_R = positions_at(dx_strides, first, positions, tokens, BLOCK_ROWS)
    store_positions(dx + batch * dx_strides[0], dx_R, inside_R, channel_C, dx_RC, WIDTH)


@triton.jit(do_not_specialize=["rows"])
def product(
    d,
    weight,
    out,
    rows,
    outs,
    width,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute Σ d[row, o] weight[o, c] for a tile of wide rows and a tile of channels.

    With EVEN both widths are multiples of a block.
    """
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    channel_C = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    out_RC = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    for first_out in range(0, outs, BLOCK_OUT):
        out_O = first_out + tl.arange(0, BLOCK_OUT)
        d_RO = load_columns(d, first, out_O, rows, outs, BLOCK_ROWS, EVEN)
        weight_OC = load_columns(weight, first_out, channel_C, outs, width, BLOCK_OUT, EVEN)
        out_RC = tl.dot(d_RO, weight_OC, out_RC, input_precision="ieee")
    store_columns(out, first, channel_C, rows, width, out_RC, BLOCK_ROWS, EVEN)


@triton.jit(do_not_specialize=["tokens", "positions"])
def backward_wide(
    x,
    x_strides,
    norm_weight,
    norm_bias,
    dy,
    residual_grad,
    residual_strides,
    dx,
    dx_strides,
    y,
    norm_partials,
    tokens,
    positions,
    epsilon,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    BESIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Do the same as `backward` for rows too wide for a tile, from LayerNorm's gradient."""
    batch = tl.cast(tl.program_id(1), tl.int64)
    program = batch * tl.num_programs(0) + tl.program_id(0)
    first = tl.program_id(0) * BLOCK_ROWS
    start = tl.cast(first, tl.int64)
    offset_R, inside_R = positions_at(x_strides, first, positions, tokens, BLOCK_ROWS)
    residual_R, _inside_R = positions_at(residual_strides, first, positions, tokens, BLOCK_ROWS)
    dx_R, _inside_R = positions_at(dx_strides, first, positions, tokens, BLOCK_ROWS)
    x += batch * x_strides[0]
    residual_grad += batch * residual_strides[0]
    dx += batch * dx_strides[0]
    dy += batch * positions * WIDTH
    y += batch * positions * WIDTH
    mean_R, rsigma_R = _statistics(x, offset_R, inside_R, epsilon, WIDTH, BLOCK_WIDTH)
    sum_R = tl.zeros([BLOCK_ROWS], tl.float32)
    slope_R = tl.zeros([BLOCK_ROWS], tl.float32)
    for first_channel in range(0, WIDTH, BLOCK_WIDTH):
        channel_C = first_channel + tl.arange(0, BLOCK_WIDTH)
        hat_RC = _hat(x, offset_R, inside_R, channel_C, mean_R, rsigma_R, WIDTH)
        y_RC, scale_C = scale_and_shift(
            hat_RC, norm_weight, norm_bias, channel_C, SCALE, SHIFT, WIDTH
        )
        dy_RC = load_rows(dy, start, channel_C, positions, BLOCK_ROWS, WIDTH, "")
        store_rows(y, start, channel_C, positions, y_RC, BLOCK_ROWS, WIDTH)
        store_norm_gradients(norm_partials, program, dy_RC, hat_RC, channel_C, WIDTH)
        sum_R += tl.sum(dy_RC * scale_C[None, :], 1)
        slope_R += tl.sum(dy_RC * scale_C[None, :] * hat_RC, 1)
    for first_channel in range(0, WIDTH, BLOCK_WIDTH):
        channel_C = first_channel + tl.arange(0, BLOCK_WIDTH)
        hat_RC = _hat(x, offset_R, inside_R, channel_C, mean_R, rsigma_R, WIDTH)
        _y_RC, scale_C = scale_and_shift(
            hat_RC, norm_weight, norm_bias, channel_C, SCALE, SHIFT, WIDTH
        )
        dy_RC = load_rows(dy, start, channel_C, positions, BLOCK_ROWS, WIDTH, "")
        dx_RC = (
            dy_RC * scale_C[None, :] - sum_R[:, None] / WIDTH - hat_RC * slope_R[:, None] / WIDTH
        )
        dx_RC *= rsigma_R[:, None]
        if BESIDE:
            dx_RC += load_positions(residual_grad, residual_R, inside_R, channel_C, WIDTH, "").to(
                tl.float32
            )
        store_positions(dx, dx_R, inside_R, channel_C, dx_RC, WIDTH)
