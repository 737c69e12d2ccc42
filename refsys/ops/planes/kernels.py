"""Sums over rows, and the kernel that adds their planes up."""

import triton
import triton.language as tl

from refsys.ops.layer_norm.kernels import load_columns
from refsys.ops.specialization.kernels import decode


@triton.jit
def fold(
    planes,
    outs,
    counts,
    sizes,
    starts,
    JOBS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """[batch, count, size] to [batch, size], so many planes at a time, in their order.

    Several jobs at once, each for the programs from its start on. All integers are encoded; sizes
    are in units.
    """
    for job in tl.static_range(JOBS):
        size = decode(sizes[job]) * UNIT
        blocks = tl.cdiv(size, BLOCK)
        start = decode(starts[job])
        program = tl.program_id(0) - start
        if (program >= 0) & (program < decode(starts[job + 1]) - start):
            _fold(
                *(planes[job], outs[job], decode(counts[job]), size),
                *(program % blocks, program // blocks, BLOCK_PLANES, BLOCK),
            )


@triton.jit
def _fold(planes, out, count, size, block, batch, BLOCK_PLANES: tl.constexpr, BLOCK: tl.constexpr):
    batch = tl.cast(batch, tl.int64)
    place = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    plane = tl.arange(0, BLOCK_PLANES)[:, None]
    base = planes + batch * count * size
    sum_PE = tl.zeros([BLOCK_PLANES, BLOCK], tl.float32)
    for first in range(0, count, BLOCK_PLANES):
        pointers = base + tl.cast(first + plane, tl.int64) * size + place
        sum_PE += tl.load(pointers, mask=(first + plane < count) & (place < size), other=0.0)
    place = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    sum_E = tl.sum(sum_PE, 0).to(out.dtype.element_ty)
    tl.store(out + batch * size + place, sum_E, mask=place < size)


@triton.jit(do_not_specialize=["rows", "each", "sum_count"])
def outer(
    d,
    y,
    planes,
    sums,
    rows,
    each,
    width_out,
    width,
    sum_count,
    SUMS: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Σ d[row, o] y[row, c] over `each` tiles of rows; `planes` is [part, width_out, width].

    With SUMS, `sums` is [part, sum_count], Σ d[row, o] of the first channels. With EVEN both widths
    are whole blocks.
    """
    chunks_out = tl.cdiv(width_out, BLOCK_OUT)
    out_O = tl.program_id(0) % chunks_out * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    part = tl.program_id(0) // chunks_out
    channel_C = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    sum_OC = tl.zeros([BLOCK_OUT, BLOCK_WIDTH], tl.float32)
    sum_O = tl.zeros([BLOCK_OUT], tl.float32)
    for tile in range(part * each, part * each + each):
        first = tl.cast(tile, tl.int64) * BLOCK_ROWS
        y_RC = load_columns(y, first, channel_C, rows, width, BLOCK_ROWS, EVEN)
        d_RO = load_columns(d, first, out_O, rows, width_out, BLOCK_ROWS, EVEN)
        sum_OC = tl.dot(tl.trans(d_RO), y_RC, sum_OC, input_precision="ieee")
        if SUMS:
            sum_O += tl.sum(d_RO.to(tl.float32), 0)
    part = tl.cast(part, tl.int64)
    planes += part * width_out * width
    inside_OC = (out_O < width_out)[:, None] & (channel_C < width)[None, :]
    tl.store(planes + out_O[:, None] * width + channel_C[None, :], sum_OC, mask=inside_OC)
    if SUMS:
        alone = (out_O < sum_count) & (tl.program_id(1) == 0)
        tl.store(sums + part * sum_count + out_O, sum_O, mask=alone)
