"""Sums over rows, and the kernel that adds their planes up."""

import triton
import triton.language as tl

from refsys.ops.layer_norm.kernels import load_rows


@triton.jit
def fold(
    planes,
    out,
    count,
    each,
    BLOCK_PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """[batch, count, each] to [batch, each]: so many planes at a time, in their order."""
    place = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    batch = tl.cast(tl.program_id(1), tl.int64)
    plane = tl.arange(0, BLOCK_PLANES)[:, None]
    base = planes + batch * count * each
    sum_PE = tl.zeros([BLOCK_PLANES, BLOCK], tl.float32)
    for first in range(0, count, BLOCK_PLANES):
        pointers = base + tl.cast(first + plane, tl.int64) * each + place
        sum_PE += tl.load(pointers, mask=(first + plane < count) & (place < each), other=0.0)
    place = tl.cast(tl.program_id(0), tl.int64) * BLOCK + tl.arange(0, BLOCK)
    sum_E = tl.sum(sum_PE, 0).to(out.dtype.element_ty)
    tl.store(out + batch * each + place, sum_E, mask=place < each)


@triton.jit
def outer(
    d,
    y,
    planes,
    rows,
    each,
    WIDTH_OUT: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Σ d[row, o] y[row, c] over `each` tiles of rows; `planes` is [part, WIDTH_OUT, WIDTH]."""
    chunks = tl.cdiv(WIDTH_OUT, BLOCK_OUT)
    out_O = tl.program_id(0) % chunks * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    part = tl.program_id(0) // chunks
    channel_C = tl.arange(0, BLOCK_WIDTH)
    row_R = tl.arange(0, BLOCK_ROWS)
    sum_OC = tl.zeros([BLOCK_OUT, BLOCK_WIDTH], tl.float32)
    for tile in range(part * each, part * each + each):
        first = tl.cast(tile, tl.int64) * BLOCK_ROWS
        y_RC = load_rows(y, first, channel_C, rows, BLOCK_ROWS, WIDTH, "")
        inside_RO = (row_R < tl.cast(rows - first, tl.int32))[:, None] & (out_O < WIDTH_OUT)[
            None, :
        ]
        pointers = d + first * WIDTH_OUT + (row_R[:, None] * WIDTH_OUT + out_O[None, :])
        d_RO = tl.load(pointers, mask=inside_RO, other=0.0)
        sum_OC = tl.dot(tl.trans(d_RO), y_RC, sum_OC, input_precision="ieee")
    planes += tl.cast(part, tl.int64) * WIDTH_OUT * WIDTH
    inside_OC = (out_O < WIDTH_OUT)[:, None] & (channel_C < WIDTH)[None, :]
    tl.store(planes + out_O[:, None] * WIDTH + channel_C[None, :], sum_OC, mask=inside_OC)
