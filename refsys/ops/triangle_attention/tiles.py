"""Addresses and tiles of the tensors of triangle attention, for its kernels."""

import triton
import triton.language as tl

from refsys.ops.specialization.kernels import decode, in_units


@triton.jit
def load_tile(
    base,
    strides,
    first,
    tokens,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    EVEN: tl.constexpr,
):
    """Load [BLOCK, BLOCK_WIDTH] of one row and head from token `first` on; 0 outside."""
    places, width = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_WIDTH)[None, :]
    pointers = base + tl.cast(first, tl.int64) * strides[2]
    pointers += places * strides[2] + width * strides[4]
    if EVEN and WIDTH == BLOCK_WIDTH:
        return tl.load(pointers)
    return tl.load(pointers, mask=(first + places < tokens) & (width < WIDTH), other=0.0)


@triton.jit
def store_tile(
    base,
    strides,
    first,
    tokens,
    values,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """Store what `load_tile` would load."""
    places, width = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_WIDTH)[None, :]
    pointers = base + tl.cast(first, tl.int64) * strides[2]
    pointers += places * strides[2] + width * strides[4]
    inside = (first + places < tokens) & (width < WIDTH)
    tl.store(pointers, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def load_bias(
    base,
    strides,
    first_row,
    first_column,
    rows,
    columns,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    EVEN: tl.constexpr,
    UNIT: tl.constexpr,
):
    """Load [BLOCK_ROWS, BLOCK_COLUMNS] of one head's bias in float32; 0 outside.

    All strides but the last are encoded multiples of UNIT.
    """
    row_stride = in_units(decode(strides[2]), UNIT)
    row, column = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLUMNS)[None, :]
    pointers = base + tl.cast(first_row, tl.int64) * row_stride
    pointers += tl.cast(first_column, tl.int64) * strides[3]
    pointers += row * row_stride + column * strides[3]
    if EVEN:
        return tl.load(pointers).to(tl.float32)
    inside = (first_row + row < rows) & (first_column + column < columns)
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def load_keep(base, strides, first, keys, BLOCK: tl.constexpr):
    """Load [BLOCK] of the mask, True for a key that counts; False outside."""
    key = first + tl.arange(0, BLOCK)
    return tl.load(base + tl.cast(key, tl.int64) * strides[2], mask=key < keys, other=0) != 0


@triton.jit
def line_at(pointer, strides, batch, row, head):
    """Return the start of a row and head of a [batch, row, token, head, width] tensor."""
    offset = tl.cast(batch, tl.int64) * strides[0] + tl.cast(row, tl.int64) * strides[1]
    return pointer + offset + head * strides[3]


@triton.jit
def plane_at(pointer, strides, batch, index, UNIT: tl.constexpr):
    """Return the start of a head of the bias or a row of the mask; strides as in `load_bias`."""
    pointer += tl.cast(batch, tl.int64) * in_units(decode(strides[0]), UNIT)
    return pointer + tl.cast(index, tl.int64) * in_units(decode(strides[1]), UNIT)


@triton.jit
def program_indices(tiles, heads, rows):
    """Return this program's tile, head, row and batch, of which the tile varies fastest."""
    program = tl.program_id(0)
    batch_row = program // tiles // heads
    return program % tiles, program // tiles % heads, batch_row % rows, batch_row // rows


@triton.jit
def query_line(pointer, batch, row, head, rows, heads, queries):
    """Return the start of a row and head of a dense [batch, row, head, query] tensor."""
    return pointer + ((tl.cast(batch, tl.int64) * rows + row) * heads + head) * queries
