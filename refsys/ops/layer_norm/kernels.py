"""LayerNorm inside a kernel, for the fused operators.

Shape suffixes: R rows of a tile, C channels, padded to a power of two.
"""

import triton
import triton.language as tl


@triton.jit
def normalize(x_RC, channel_C, epsilon, WIDTH: tl.constexpr):
    """Return (x − mean) / σ, 0 beyond the width, and 1 / σ of each row; `x_RC` is in float32."""
    mean_R = tl.sum(x_RC, 1) / WIDTH
    centred_RC = x_RC - mean_R[:, None]
    if channel_C.shape[0] != WIDTH:
        centred_RC = tl.where((channel_C < WIDTH)[None, :], centred_RC, 0.0)
    rsigma_R = tl.rsqrt(tl.sum(centred_RC * centred_RC, 1) / WIDTH + epsilon)
    return centred_RC * rsigma_R[:, None], rsigma_R


@triton.jit
def scale_and_shift(
    hat_RC,
    norm_weight,
    norm_bias,
    channel_C,
    SCALE: tl.constexpr,
    SHIFT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Return normalized rows times the scale plus the offset, if present; and the scale."""
    scale_C = tl.full([channel_C.shape[0]], 1.0, tl.float32)
    if SCALE:
        scale_C = tl.load(norm_weight + channel_C, mask=channel_C < WIDTH, other=0.0)
        scale_C = scale_C.to(tl.float32)
    y_RC = hat_RC * scale_C[None, :]
    if SHIFT:
        offset_C = tl.load(norm_bias + channel_C, mask=channel_C < WIDTH, other=0.0)
        y_RC += offset_C.to(tl.float32)[None, :]
    return y_RC, scale_C


@triton.jit
def normalize_backward(dhat_RC, hat_RC, rsigma_R, WIDTH: tl.constexpr):
    """Return the gradient of x from that of `normalize`'s result; 0 beyond the width."""
    mean_R = tl.sum(dhat_RC, 1) / WIDTH
    slope_R = tl.sum(dhat_RC * hat_RC, 1) / WIDTH
    return rsigma_R[:, None] * (dhat_RC - mean_R[:, None] - hat_RC * slope_R[:, None])


@triton.jit
def store_norm_gradients(partials, program, dy_RC, hat_RC, channel_C, WIDTH: tl.constexpr):
    """Store the gradients of scale and offset, summed over a tile, in [program, 2, WIDTH]."""
    partial_C = partials + program * 2 * WIDTH + channel_C
    tl.store(partial_C, tl.sum(dy_RC * hat_RC, 0), mask=channel_C < WIDTH)
    tl.store(partial_C + WIDTH, tl.sum(dy_RC, 0), mask=channel_C < WIDTH)


@triton.jit
def load_rows(
    base,
    first,
    channel_C,
    rows,
    BLOCK_ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    EVICTION: tl.constexpr,
):
    """Load [R, C] of a dense [rows, WIDTH] tensor from row `first` on; 0 outside."""
    row_R = tl.arange(0, BLOCK_ROWS)
    pointers = base + first * WIDTH + (row_R[:, None] * WIDTH + channel_C[None, :])
    inside_RC = (row_R < tl.cast(rows - first, tl.int32))[:, None]
    if channel_C.shape[0] != WIDTH:
        inside_RC = inside_RC & (channel_C < WIDTH)[None, :]
    return tl.load(pointers, mask=inside_RC, other=0.0, eviction_policy=EVICTION)


@triton.jit
def store_rows(
    base, first, channel_C, rows, values_RC, BLOCK_ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Store what `load_rows` would load."""
    row_R = tl.arange(0, BLOCK_ROWS)
    pointers = base + first * WIDTH + (row_R[:, None] * WIDTH + channel_C[None, :])
    inside_RC = (row_R < tl.cast(rows - first, tl.int32))[:, None]
    if channel_C.shape[0] != WIDTH:
        inside_RC = inside_RC & (channel_C < WIDTH)[None, :]
    tl.store(pointers, values_RC.to(base.dtype.element_ty), mask=inside_RC)


@triton.jit
def load_columns(base, first, column_C, rows, width, BLOCK_ROWS: tl.constexpr, EVEN: tl.constexpr):
    """Load [R, C], some columns of a dense [rows, width] tensor from row `first` on; 0 outside.

    Like `load_rows`, for a width that is no constant. With EVEN all columns exist.
    """
    row_R = tl.arange(0, BLOCK_ROWS)
    pointers = base + first * width + (row_R[:, None] * width + column_C[None, :])
    inside_RC = (row_R < tl.cast(rows - first, tl.int32))[:, None]
    if not EVEN:
        inside_RC = inside_RC & (column_C < width)[None, :]
    return tl.load(pointers, mask=inside_RC, other=0.0)


@triton.jit
def store_columns(
    base, first, column_C, rows, width, values_RC, BLOCK_ROWS: tl.constexpr, EVEN: tl.constexpr
):
    """Store what `load_columns` would load."""
    row_R = tl.arange(0, BLOCK_ROWS)
    pointers = base + first * width + (row_R[:, None] * width + column_C[None, :])
    inside_RC = (row_R < tl.cast(rows - first, tl.int32))[:, None]
    if not EVEN:
        inside_RC = inside_RC & (column_C < width)[None, :]
    tl.store(pointers, values_RC.to(base.dtype.element_ty), mask=inside_RC)


@triton.jit
def load_normalized(
    x,
    norm_weight,
    norm_bias,
    first,
    channel_C,
    rows,
    epsilon,
    BLOCK_ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    EVICTION: tl.constexpr,
):
    """Return LayerNorm in the dtype of x, the same before scale and offset, 1 / σ, and scale."""
    x_RC = load_rows(x, first, channel_C, rows, BLOCK_ROWS, WIDTH, EVICTION).to(tl.float32)
    hat_RC, rsigma_R = normalize(x_RC, channel_C, epsilon, WIDTH)
    y_RC, scale_C = scale_and_shift(hat_RC, norm_weight, norm_bias, channel_C, True, True, WIDTH)
    return y_RC.to(x.dtype.element_ty), hat_RC, rsigma_R, scale_C
