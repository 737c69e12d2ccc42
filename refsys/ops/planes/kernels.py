"""The kernel that adds planes up."""

import triton
import triton.language as tl


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
