"""Gate, linear layer, dropout and residual, in one pass over the positions.

x is dense; the positions of its gate are equidistant, perhaps with other channels between them; the
residual, the output and its gradient have free strides.

Shape suffixes: R positions of a tile, C channels of a chunk, padded to a power of two, O a chunk of
output channels.
"""

import triton
import triton.language as tl

from refsys.ops.layer_norm.positions import (
    load_dropout,
    load_positions,
    positions_at,
    store_positions,
)


@triton.jit
def _load_chunk(base, first, channel_C, inside_C, positions, stride, BLOCK_ROWS: tl.constexpr):
    """Load [R, C], positions `stride` apart from position `first` on; 0 outside."""
    position_R = first + tl.arange(0, BLOCK_ROWS)
    inside_RC = (position_R < positions)[:, None] & inside_C[None, :]
    offset_R = tl.cast(position_R, tl.int64) * stride
    return tl.load(base + (offset_R[:, None] + channel_C[None, :]), mask=inside_RC, other=0.0)


@triton.jit
def _store_chunk(
    base, first, channel_C, inside_C, positions, stride, values_RC, BLOCK_ROWS: tl.constexpr
):
    """Store what `_load_chunk` would load."""
    position_R = first + tl.arange(0, BLOCK_ROWS)
    inside_RC = (position_R < positions)[:, None] & inside_C[None, :]
    offset_R = tl.cast(position_R, tl.int64) * stride
    pointers = base + (offset_R[:, None] + channel_C[None, :])
    tl.store(pointers, values_RC.to(base.dtype.element_ty), mask=inside_RC)


@triton.jit(do_not_specialize=["tokens", "positions"])
def forward(
    x,
    gate,
    gate_stride,
    weight,
    residual,
    residual_strides,
    keep,
    out,
    out_strides,
    tokens,
    positions,
    scale,
    RESIDUAL: tl.constexpr,
    KEEP: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute one tile of positions and of output channels."""
    batch = tl.cast(tl.program_id(1), tl.int64)
    first = tl.program_id(0) * BLOCK_ROWS
    x += batch * positions * WIDTH
    gate += batch * positions * gate_stride
    out_O = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    out_RO = tl.zeros([BLOCK_ROWS, BLOCK_OUT], tl.float32)
    for first_channel in range(0, WIDTH, BLOCK_WIDTH):
        channel_C = first_channel + tl.arange(0, BLOCK_WIDTH)
        inside_C = channel_C < WIDTH
        x_RC = _load_chunk(x, first, channel_C, inside_C, positions, WIDTH, BLOCK_ROWS)
        gate_RC = _load_chunk(gate, first, channel_C, inside_C, positions, gate_stride, BLOCK_ROWS)
        gated_RC = x_RC.to(tl.float32) * tl.sigmoid(gate_RC.to(tl.float32))
        inside_OC = (out_O < OUT)[:, None] & inside_C[None, :]
        pointers = weight + (out_O[:, None] * WIDTH + channel_C[None, :])
        weight_OC = tl.load(pointers, mask=inside_OC, other=0.0)
        out_RO = tl.dot(
            gated_RC.to(x_RC.dtype), tl.trans(weight_OC), out_RO, input_precision="ieee"
        )
    if KEEP:
        keep += batch * tokens * OUT
        out_RO *= load_dropout(keep, first, out_O, positions, tokens, scale, OUT, BLOCK_ROWS)
    if RESIDUAL:
        residual += batch * residual_strides[0]
        offset_R, inside_R = positions_at(residual_strides, first, positions, tokens, BLOCK_ROWS)
        residual_RO = load_positions(residual, offset_R, inside_R, out_O, OUT, "evict_first")
        out_RO += residual_RO.to(tl.float32)
    offset_R, inside_R = positions_at(out_strides, first, positions, tokens, BLOCK_ROWS)
    store_positions(out + batch * out_strides[0], offset_R, inside_R, out_O, out_RO, OUT)


@triton.jit(do_not_specialize=["tokens", "positions"])
def backward(
    x,
    gate,
    gate_stride,
    weight,
    keep,
    grad,
    grad_strides,
    dx,
    dgate,
    gated,
    dlinear,
    delta,
    tokens,
    positions,
    scale,
    KEEP: tl.constexpr,
    LEAVE: tl.constexpr,
    DELTA: tl.constexpr,
    WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_CHUNK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Compute the gradients of x and its gate for one tile of positions, by chunks of channels.

    For the weight's gradient, x · sigmoid(gate) is stored in `gated` and, with `LEAVE`, the
    gradient of the linear layer's output in `dlinear`. If chunks are the heads of attention,
    Σ x · dx over each is stored in `delta`, [batch, row, head, token].
    """
    batch = tl.cast(tl.program_id(1), tl.int64)
    first = tl.program_id(0) * BLOCK_ROWS
    x += batch * positions * WIDTH
    gate += batch * positions * gate_stride
    dx += batch * positions * WIDTH
    dgate += batch * positions * gate_stride
    gated += batch * positions * WIDTH
    dlinear += batch * positions * OUT
    keep += batch * tokens * OUT
    grad += batch * grad_strides[0]
    grad_R, inside_R = positions_at(grad_strides, first, positions, tokens, BLOCK_ROWS)
    position_R = first + tl.arange(0, BLOCK_ROWS)
    HEADS: tl.constexpr = (WIDTH + CHUNK - 1) // CHUNK
    offset_D = tl.arange(0, BLOCK_CHUNK)
    for chunk in range(0, HEADS):
        channel_D = chunk * CHUNK + offset_D
        inside_D = (offset_D < CHUNK) & (channel_D < WIDTH)
        dgated_RD = tl.zeros([BLOCK_ROWS, BLOCK_CHUNK], tl.float32)
        for first_out in range(0, OUT, BLOCK_OUT):
            out_O = first_out + tl.arange(0, BLOCK_OUT)
            dlinear_RO = load_positions(grad, grad_R, inside_R, out_O, OUT, "")
            if KEEP:
                factor_RO = load_dropout(
                    keep, first, out_O, positions, tokens, scale, OUT, BLOCK_ROWS
                )
                dlinear_RO = (dlinear_RO.to(tl.float32) * factor_RO).to(grad.dtype.element_ty)
            if LEAVE and chunk == 0:
                _store_chunk(
                    dlinear, first, out_O, out_O < OUT, positions, OUT, dlinear_RO, BLOCK_ROWS
                )
            pointers = weight + (out_O[:, None] * WIDTH + channel_D[None, :])
            inside_OD = (out_O < OUT)[:, None] & inside_D[None, :]
            weight_OD = tl.load(pointers, mask=inside_OD, other=0.0)
            dgated_RD = tl.dot(dlinear_RO, weight_OD, dgated_RD, input_precision="ieee")
        x_RD = _load_chunk(x, first, channel_D, inside_D, positions, WIDTH, BLOCK_ROWS)
        gate_RD = _load_chunk(gate, first, channel_D, inside_D, positions, gate_stride, BLOCK_ROWS)
        x_RD = x_RD.to(tl.float32)
        open_RD = tl.sigmoid(gate_RD.to(tl.float32))
        dx_RD = (dgated_RD * open_RD).to(dx.dtype.element_ty)
        dgate_RD = dgated_RD * x_RD * open_RD * (1.0 - open_RD)
        _store_chunk(dx, first, channel_D, inside_D, positions, WIDTH, dx_RD, BLOCK_ROWS)
        _store_chunk(
            dgate, first, channel_D, inside_D, positions, gate_stride, dgate_RD, BLOCK_ROWS
        )
        _store_chunk(
            gated, first, channel_D, inside_D, positions, WIDTH, x_RD * open_RD, BLOCK_ROWS
        )
        if DELTA:
            delta_R = tl.sum(x_RD * dx_RD.to(tl.float32), 1)
            line_R = (batch * (positions // tokens) + position_R // tokens) * HEADS + chunk
            tl.store(delta + line_R * tokens + position_R % tokens, delta_R, mask=inside_R)
