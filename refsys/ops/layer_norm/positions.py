"""Tiles of positions of a strided pair tensor, [batch, row, token, channel].

Shape suffixes: R positions of a tile, C channels.
"""

import triton
import triton.language as tl


@triton.jit
def positions_at(strides, first, positions, tokens, BLOCK_ROWS: tl.constexpr):
    """Return the offsets of a tile's positions within an example, and which of them exist.

    Position p is token p % tokens of row p // tokens.
    """
    position_R = first + tl.arange(0, BLOCK_ROWS)
    row_R = tl.cast(position_R // tokens, tl.int64)
    token_R = tl.cast(position_R % tokens, tl.int64)
    return row_R * strides[1] + token_R * strides[2], position_R < positions


@triton.jit
def load_positions(
    base, offset_R, inside_R, channel_C, WIDTH: tl.constexpr, EVICTION: tl.constexpr
):
    """Load [R, C] at the offsets of `positions_at`; 0 outside."""
    inside_RC = inside_R[:, None] & (channel_C < WIDTH)[None, :]
    pointers = base + (offset_R[:, None] + channel_C[None, :])
    return tl.load(pointers, mask=inside_RC, other=0.0, eviction_policy=EVICTION)


@triton.jit
def store_positions(base, offset_R, inside_R, channel_C, values_RC, WIDTH: tl.constexpr):
    """Store what `load_positions` would load."""
    inside_RC = inside_R[:, None] & (channel_C < WIDTH)[None, :]
    pointers = base + (offset_R[:, None] + channel_C[None, :])
    tl.store(pointers, values_RC.to(base.dtype.element_ty), mask=inside_RC)


@triton.jit
def load_dropout(
    keep, first, out_O, positions, tokens, scale, OUT: tl.constexpr, ROWS: tl.constexpr
):
    """Load [R, O] factors of dropout: `scale` where the [token, OUT] mask keeps, else 0."""
    position_R = first + tl.arange(0, ROWS)
    inside_RO = (position_R < positions)[:, None] & (out_O < OUT)[None, :]
    pointers = keep + ((position_R % tokens)[:, None] * OUT + out_O[None, :])
    return tl.where(tl.load(pointers, mask=inside_RO, other=0) != 0, scale, 0.0)
