"""Sums over rows, and the kernel that adds partial sums up."""

import triton
import triton.language as tl

from refsys.ops.layer_norm.kernels import load_columns
from refsys.ops.specialization.kernels import decode


@triton.jit
def fold(
    partials,
    outs,
    counts,
    sizes,
    starts,
    JOBS: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_PLANES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Reduce [batch, count, size] to [batch, size], BLOCK_PLANES parts at a time, in their order.

    Several reductions in one launch, each by the programs from its start on. All integers are
    encoded; sizes are in units.
    """
    for job in tl.static_range(JOBS):
        size = decode(sizes[job]) * UNIT
        blocks = tl.cdiv(size, BLOCK)
        start = decode(starts[job])
        program = tl.program_id(0) - start
        if (program >= 0) & (program < decode(starts[job + 1]) - start):
            _fold(
                partials[job],
                outs[job],
                decode(counts[job]),
                size,
                program % blocks,
                program // blocks,
                BLOCK_PLANES,
                BLOCK,
            )


@triton.jit
def _fold(
    partials, out, count, size, block, batch, BLOCK_PLANES: tl.constexpr, BLOCK: tl.constexpr
):
    batch = tl.cast(batch, tl.int64)
    element = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    part = tl.arange(0, BLOCK_PLANES)[:, None]
    base = partials + batch * count * size
    sum_PE = tl.zeros([BLOCK_PLANES, BLOCK], tl.float32)
    for first in range(0, count, BLOCK_PLANES):
        pointers = base + tl.cast(first + part, tl.int64) * size + element
        sum_PE += tl.load(pointers, mask=(first + part < count) & (element < size), other=0.0)
    element = tl.cast(block, tl.int64) * BLOCK + tl.arange(0, BLOCK)
    sum_E = tl.sum(sum_PE, 0).to(out.dtype.element_ty)
    tl.store(out + batch * size + element, sum_E, mask=element < size)


@triton.jit(do_not_specialize=["rows", "tiles_per_part", "sum_count"])
def outer(
    d,
    y,
    partials,
    sums,
    rows,
    tiles_per_part,
    width_out,
    width,
    sum_count,
    SUMS: tl.constexpr,
    EVEN: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Compute Σ d[row, o] y[row, c] over a part's tiles; `partials` is [part, width_out, width].

    With SUMS, `sums` is [part, sum_count], Σ d[row, o] of the first channels. With EVEN both widths
    are multiples of a block.
    """
    chunks_out = tl.cdiv(width_out, BLOCK_OUT)
    out_O = tl.program_id(0) % chunks_out * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    part = tl.program_id(0) // chunks_out
    channel_C = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    sum_OC = tl.zeros([BLOCK_OUT, BLOCK_WIDTH], tl.float32)
    sum_O = tl.zeros([BLOCK_OUT], tl.float32)
    for tile in range(part * tiles_per_part, part * tiles_per_part + tiles_per_part):
        first = tl.cast(tile, tl.int64) * BLOCK_ROWS
        y_RC = load_columns(y, first, channel_C, rows, width, BLOCK_ROWS, EVEN)
        d_RO = load_columns(d, first, out_O, rows, width_out, BLOCK_ROWS, EVEN)
        sum_OC = tl.dot(tl.trans(d_RO), y_RC, sum_OC, input_precision="ieee")
        if SUMS:
            sum_O += tl.sum(d_RO.to(tl.float32), 0)
    part = tl.cast(part, tl.int64)
    partials += part * width_out * width
    inside_OC = (out_O < width_out)[:, None] & (channel_C < width)[None, :]
    tl.store(partials + out_O[:, None] * width + channel_C[None, :], sum_OC, mask=inside_OC)
    if SUMS:
        inside_O = (out_O < sum_count) & (tl.program_id(1) == 0)
        tl.store(sums + part * sum_count + out_O, sum_O, mask=inside_O)
