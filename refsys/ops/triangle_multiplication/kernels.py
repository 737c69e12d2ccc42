"""Triangle multiplication's first and last stage in Triton, a tile of positions at a time.

The contraction's operands and result have channels in front, [batch, channel, row · token], the
layout of the vendor's batched product; all other tensors have channels last.

Shape suffixes: R positions of a tile, C channels, padded to a power of two, O a chunk of output
channels.
"""

import triton
import triton.language as tl

from refsys.ops.layer_norm.kernels import (
    load_normalized,
    load_rows,
    normalize,
    normalize_backward,
    scale_and_shift,
    store_norm_gradients,
    store_rows,
)
from refsys.ops.layer_norm.positions import load_dropout


@triton.jit
def _load_weight(weight, section, out_O, channel_C, WIDTH: tl.constexpr):
    """Load [O, C] of one of the [WIDTH, WIDTH] matrices that `weight` stacks; 0 outside."""
    pointers = weight + section * WIDTH * WIDTH + (out_O[:, None] * WIDTH + channel_C[None, :])
    inside_OC = (out_O < WIDTH)[:, None] & (channel_C < WIDTH)[None, :]
    return tl.load(pointers, mask=inside_OC, other=0.0)


@triton.jit
def _planar(base, first, out_O, positions, BLOCK_ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return pointers [R, O] into a dense [WIDTH, positions] tensor, and which are inside."""
    row_R = tl.arange(0, BLOCK_ROWS)
    pointers = base + first + tl.cast(out_O, tl.int64)[None, :] * positions + row_R[:, None]
    inside_R = row_R < tl.cast(positions - first, tl.int32)
    return pointers, inside_R[:, None] & (out_O < WIDTH)[None, :]


@triton.jit
def _flat(base, first, out_O, positions, BLOCK_ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return pointers [R, O] into a dense [positions, WIDTH] tensor, and which are inside."""
    row_R = tl.arange(0, BLOCK_ROWS)
    pointers = base + first * WIDTH + (row_R[:, None] * WIDTH + out_O[None, :])
    inside_R = row_R < tl.cast(positions - first, tl.int32)
    return pointers, inside_R[:, None] & (out_O < WIDTH)[None, :]


@triton.jit
def _load_keep(mask, first, positions, BLOCK_ROWS: tl.constexpr):
    row_R = tl.arange(0, BLOCK_ROWS)
    inside_R = row_R < tl.cast(positions - first, tl.int32)
    return tl.load(mask + first + row_R, mask=inside_R, other=0) != 0


@triton.jit
def projection(
    z,
    mask,
    norm_weight,
    norm_bias,
    weight,
    a,
    b,
    gate,
    positions,
    epsilon,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute both operands and the gate's logits for one tile of positions."""
    batch = tl.cast(tl.program_id(1), tl.int64) * positions
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC, _hat_RC, _rsigma_R, _scale_C = load_normalized(
        z + batch * WIDTH,
        norm_weight,
        norm_bias,
        first,
        channel_C,
        positions,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
        "",
    )
    keep_R = _load_keep(mask + batch, first, positions, BLOCK_ROWS)
    for first_out in range(0, WIDTH, BLOCK_OUT):
        out_O = first_out + tl.arange(0, BLOCK_OUT)
        for operand in tl.static_range(2):
            value_OC = _load_weight(weight, operand, out_O, channel_C, WIDTH)
            gate_OC = _load_weight(weight, 2 + operand, out_O, channel_C, WIDTH)
            value_RO = tl.dot(y_RC, tl.trans(value_OC), input_precision="ieee")
            gate_RO = tl.dot(y_RC, tl.trans(gate_OC), input_precision="ieee")
            gated_RO = tl.where(keep_R[:, None], value_RO * tl.sigmoid(gate_RO), 0.0)
            base = a if operand == 0 else b
            pointers, inside_RO = _planar(
                base + batch * WIDTH, first, out_O, positions, BLOCK_ROWS, WIDTH
            )
            tl.store(pointers, gated_RO.to(z.dtype.element_ty), mask=inside_RO)
        gate_OC = _load_weight(weight, 4, out_O, channel_C, WIDTH)
        gate_RO = tl.dot(y_RC, tl.trans(gate_OC), input_precision="ieee")
        pointers, inside_RO = _flat(
            gate + batch * WIDTH, first, out_O, positions, BLOCK_ROWS, WIDTH
        )
        tl.store(pointers, gate_RO.to(z.dtype.element_ty), mask=inside_RO)


@triton.jit
def _operand_slopes(y_RC, value_OC, gate_OC, keep_R, pointers, inside_RO):
    """Return the gradients of an operand's values and gates, in y's dtype, from the operand's."""
    value_RO = tl.dot(y_RC, tl.trans(value_OC), input_precision="ieee")
    open_RO = tl.sigmoid(tl.dot(y_RC, tl.trans(gate_OC), input_precision="ieee"))
    doperand_RO = tl.load(pointers, mask=inside_RO & keep_R[:, None], other=0.0).to(tl.float32)
    dvalue_RO = doperand_RO * open_RO
    dgate_RO = dvalue_RO * value_RO * (1.0 - open_RO)
    return dvalue_RO.to(y_RC.dtype), dgate_RO.to(y_RC.dtype)


@triton.jit
def projection_backward_rows(
    z,
    mask,
    norm_weight,
    norm_bias,
    weight,
    da,
    db,
    dgate,
    dz,
    y,
    partials,
    positions,
    epsilon,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute the gradient of z for a tile of positions, and those of scale and offset, summed.

    The result of LayerNorm is stored in `y`; `partials` is [program, 2, WIDTH].
    """
    batch = tl.cast(tl.program_id(1), tl.int64) * positions
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC, _hat_RC, _rsigma_R, _scale_C = load_normalized(
        z + batch * WIDTH,
        norm_weight,
        norm_bias,
        first,
        channel_C,
        positions,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
        "",
    )
    store_rows(y + batch * WIDTH, first, channel_C, positions, y_RC, BLOCK_ROWS, WIDTH)
    keep_R = _load_keep(mask + batch, first, positions, BLOCK_ROWS)
    dy_RC = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    for first_out in range(0, WIDTH, BLOCK_OUT):
        out_O = first_out + tl.arange(0, BLOCK_OUT)
        for operand in tl.static_range(2):
            value_OC = _load_weight(weight, operand, out_O, channel_C, WIDTH)
            gate_OC = _load_weight(weight, 2 + operand, out_O, channel_C, WIDTH)
            base = da if operand == 0 else db
            pointers, inside_RO = _planar(
                base + batch * WIDTH, first, out_O, positions, BLOCK_ROWS, WIDTH
            )
            dvalue_RO, dgate_RO = _operand_slopes(
                y_RC, value_OC, gate_OC, keep_R, pointers, inside_RO
            )
            dy_RC = tl.dot(dvalue_RO, value_OC, dy_RC, input_precision="ieee")
            dy_RC = tl.dot(dgate_RO, gate_OC, dy_RC, input_precision="ieee")
        gate_OC = _load_weight(weight, 4, out_O, channel_C, WIDTH)
        pointers, inside_RO = _flat(
            dgate + batch * WIDTH, first, out_O, positions, BLOCK_ROWS, WIDTH
        )
        dgate_RO = tl.load(pointers, mask=inside_RO, other=0.0)
        dy_RC = tl.dot(dgate_RO, gate_OC, dy_RC, input_precision="ieee")
    _y_RC, hat_RC, rsigma_R, scale_C = load_normalized(
        z + batch * WIDTH,
        norm_weight,
        norm_bias,
        first,
        channel_C,
        positions,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
        "evict_first",
    )
    program = tl.cast(tl.program_id(1), tl.int64) * tl.num_programs(0) + tl.program_id(0)
    store_norm_gradients(partials, program, dy_RC, hat_RC, channel_C, WIDTH)
    dz_RC = normalize_backward(dy_RC * scale_C[None, :], hat_RC, rsigma_R, WIDTH)
    store_rows(dz + batch * WIDTH, first, channel_C, positions, dz_RC, BLOCK_ROWS, WIDTH)


@triton.jit(do_not_specialize=["tiles_per_part"])
def projection_backward_weights(
    y,
    mask,
    weight,
    da,
    db,
    partials,
    positions,
    tiles_per_part,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute the gradients of a chunk of an operand's weights over the tiles of a part, in order.

    `partials` is [batch, part, 4, WIDTH, WIDTH]: values of a and b, gates of a and b.
    """
    chunks = tl.cdiv(WIDTH, BLOCK_OUT)
    out_O = tl.program_id(0) % chunks * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    operand = tl.program_id(0) // chunks % 2
    part = tl.program_id(0) // chunks // 2
    parts = tl.num_programs(0) // chunks // 2
    example = tl.cast(tl.program_id(1), tl.int64)
    batch = example * positions
    channel_C = tl.arange(0, BLOCK_WIDTH)
    value_OC = _load_weight(weight, operand, out_O, channel_C, WIDTH)
    gate_OC = _load_weight(weight, 2 + operand, out_O, channel_C, WIDTH)
    doperand = da if operand == 0 else db
    dvalue_CO = tl.zeros([BLOCK_WIDTH, BLOCK_OUT], tl.float32)
    dgate_CO = tl.zeros([BLOCK_WIDTH, BLOCK_OUT], tl.float32)
    for tile in range(part * tiles_per_part, part * tiles_per_part + tiles_per_part):
        first = tl.cast(tile, tl.int64) * BLOCK_ROWS
        y_RC = load_rows(y + batch * WIDTH, first, channel_C, positions, BLOCK_ROWS, WIDTH, "")
        keep_R = _load_keep(mask + batch, first, positions, BLOCK_ROWS)
        pointers, inside_RO = _planar(
            doperand + batch * WIDTH, first, out_O, positions, BLOCK_ROWS, WIDTH
        )
        dvalue_RO, dgate_RO = _operand_slopes(y_RC, value_OC, gate_OC, keep_R, pointers, inside_RO)
        dvalue_CO = tl.dot(tl.trans(y_RC), dvalue_RO, dvalue_CO, input_precision="ieee")
        dgate_CO = tl.dot(tl.trans(y_RC), dgate_RO, dgate_CO, input_precision="ieee")
    size = WIDTH * WIDTH
    partials += (example * parts + part) * 4 * size + operand * size
    inside_CO = (channel_C < WIDTH)[:, None] & (out_O < WIDTH)[None, :]
    transposed_CO = out_O[None, :] * WIDTH + channel_C[:, None]
    tl.store(partials + transposed_CO, dvalue_CO, mask=inside_CO)
    tl.store(partials + 2 * size + transposed_CO, dgate_CO, mask=inside_CO)


@triton.jit
def _load_planar_normalized(
    x,
    norm_weight,
    norm_bias,
    first,
    channel_C,
    positions,
    epsilon,
    BLOCK_ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    EVICTION: tl.constexpr,
):
    """Do the same as `load_normalized` for a dense [WIDTH, positions] tensor."""
    pointers, inside_RC = _planar(x, first, channel_C, positions, BLOCK_ROWS, WIDTH)
    x_RC = tl.load(pointers, mask=inside_RC, other=0.0, eviction_policy=EVICTION)
    hat_RC, rsigma_R = normalize(x_RC.to(tl.float32), channel_C, epsilon, WIDTH)
    y_RC, scale_C = scale_and_shift(hat_RC, norm_weight, norm_bias, channel_C, True, True, WIDTH)
    return y_RC.to(x.dtype.element_ty), hat_RC, rsigma_R, scale_C


@triton.jit(do_not_specialize=["tokens"])
def epilogue(
    x,
    gate,
    norm_weight,
    norm_bias,
    weight,
    residual,
    keep,
    out,
    tokens,
    positions,
    factor,
    epsilon,
    RESIDUAL: tl.constexpr,
    KEEP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Apply LayerNorm, linear, gate, dropout and residual to one tile of positions."""
    keep += tl.cast(tl.program_id(1), tl.int64) * tokens * WIDTH
    batch = tl.cast(tl.program_id(1), tl.int64) * positions * WIDTH
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC, _hat_RC, _rsigma_R, _scale_C = _load_planar_normalized(
        x + batch,
        norm_weight,
        norm_bias,
        first,
        channel_C,
        positions,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
        "",
    )
    for first_out in range(0, WIDTH, BLOCK_OUT):
        out_O = first_out + tl.arange(0, BLOCK_OUT)
        weight_OC = _load_weight(weight, 0, out_O, channel_C, WIDTH)
        update_RO = tl.dot(y_RC, tl.trans(weight_OC), input_precision="ieee")
        gates, inside_RO = _flat(gate + batch, first, out_O, positions, BLOCK_ROWS, WIDTH)
        update_RO *= tl.sigmoid(tl.load(gates, mask=inside_RO, other=0.0).to(tl.float32))
        if KEEP:
            update_RO *= load_dropout(
                keep,
                tl.program_id(0) * BLOCK_ROWS,
                out_O,
                positions,
                tokens,
                factor,
                WIDTH,
                BLOCK_ROWS,
            )
        if RESIDUAL:
            added, inside_RO = _flat(residual + batch, first, out_O, positions, BLOCK_ROWS, WIDTH)
            update_RO += tl.load(added, mask=inside_RO, other=0.0).to(tl.float32)
        outs, inside_RO = _flat(out + batch, first, out_O, positions, BLOCK_ROWS, WIDTH)
        tl.store(outs, update_RO.to(out.dtype.element_ty), mask=inside_RO)


@triton.jit(do_not_specialize=["tokens"])
def epilogue_backward(
    x,
    gate,
    norm_weight,
    norm_bias,
    weight,
    keep,
    grad,
    dx,
    dgate,
    y,
    dlinear,
    partials,
    tokens,
    positions,
    factor,
    epsilon,
    KEEP: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute the gradients of x and the gate for a tile of positions; of scale and offset, summed.

    The result of LayerNorm and the gradient of the linear layer's output are stored in `y` and
    `dlinear`; `partials` is [program, 2, WIDTH].
    """
    keep += tl.cast(tl.program_id(1), tl.int64) * tokens * WIDTH
    batch = tl.cast(tl.program_id(1), tl.int64) * positions * WIDTH
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    channel_C = tl.arange(0, BLOCK_WIDTH)
    y_RC, _hat_RC, _rsigma_R, _scale_C = _load_planar_normalized(
        x + batch,
        norm_weight,
        norm_bias,
        first,
        channel_C,
        positions,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
        "",
    )
    store_rows(y + batch, first, channel_C, positions, y_RC, BLOCK_ROWS, WIDTH)
    dy_RC = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    for first_out in range(0, WIDTH, BLOCK_OUT):
        out_O = first_out + tl.arange(0, BLOCK_OUT)
        weight_OC = _load_weight(weight, 0, out_O, channel_C, WIDTH)
        linear_RO = tl.dot(y_RC, tl.trans(weight_OC), input_precision="ieee")
        gates, inside_RO = _flat(gate + batch, first, out_O, positions, BLOCK_ROWS, WIDTH)
        open_RO = tl.sigmoid(tl.load(gates, mask=inside_RO, other=0.0).to(tl.float32))
        grads, inside_RO = _flat(grad + batch, first, out_O, positions, BLOCK_ROWS, WIDTH)
        grad_RO = tl.load(grads, mask=inside_RO, other=0.0).to(tl.float32)
        if KEEP:
            grad_RO *= load_dropout(
                keep,
                tl.program_id(0) * BLOCK_ROWS,
                out_O,
                positions,
                tokens,
                factor,
                WIDTH,
                BLOCK_ROWS,
            )
        dlinear_RO = (grad_RO * open_RO).to(y_RC.dtype)
        dgate_RO = grad_RO * linear_RO * open_RO * (1.0 - open_RO)
        dgates, inside_RO = _flat(dgate + batch, first, out_O, positions, BLOCK_ROWS, WIDTH)
        tl.store(dgates, dgate_RO.to(dgate.dtype.element_ty), mask=inside_RO)
        dlinears, inside_RO = _flat(dlinear + batch, first, out_O, positions, BLOCK_ROWS, WIDTH)
        tl.store(dlinears, dlinear_RO, mask=inside_RO)
        dy_RC = tl.dot(dlinear_RO, weight_OC, dy_RC, input_precision="ieee")
    _y_RC, hat_RC, rsigma_R, scale_C = _load_planar_normalized(
        x + batch,
        norm_weight,
        norm_bias,
        first,
        channel_C,
        positions,
        epsilon,
        BLOCK_ROWS,
        WIDTH,
        "evict_first",
    )
    program = tl.cast(tl.program_id(1), tl.int64) * tl.num_programs(0) + tl.program_id(0)
    store_norm_gradients(partials, program, dy_RC, hat_RC, channel_C, WIDTH)
    dx_RC = normalize_backward(dy_RC * scale_C[None, :], hat_RC, rsigma_R, WIDTH)
    pointers, inside_RC = _planar(dx + batch, first, channel_C, positions, BLOCK_ROWS, WIDTH)
    tl.store(pointers, dx_RC.to(dx.dtype.element_ty), mask=inside_RC)
