"""Adaptive LayerNorm, a tile of rows at a time.

A condition's rows are read once for all samples that share it: the program loops over the samples
in order and sums the condition's gradients in registers.

Shape suffixes: R rows of a tile, C channels, padded to a power of two.
"""

import triton
import triton.language as tl

from refsys.ops.layer_norm.kernels import load_rows, normalize, normalize_backward, store_rows


@triton.jit
def load_open(gate, first, channel_C, rows, BLOCK_ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Load [R, C] of a gate's logits and return their sigmoid."""
    gate_RC = load_rows(gate, first, channel_C, rows, BLOCK_ROWS, WIDTH, "")
    return tl.sigmoid(gate_RC.to(tl.float32))


@triton.jit
def load_hat(a, first, channel_C, rows, epsilon, BLOCK_ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Return [R, C], LayerNorm without scale and offset, and 1 / σ of each row."""
    a_RC = load_rows(a, first, channel_C, rows, BLOCK_ROWS, WIDTH, "").to(tl.float32)
    return normalize(a_RC, channel_C, epsilon, WIDTH)


@triton.jit
def load_conditioned(
    a, scale, shift, first, channel_C, rows, epsilon, BLOCK_ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    """Return [R, C] of one sample, normalized, scaled and shifted, in the dtype of `a`."""
    hat_RC, _rsigma_R = load_hat(a, first, channel_C, rows, epsilon, BLOCK_ROWS, WIDTH)
    open_RC = load_open(scale, first, channel_C, rows, BLOCK_ROWS, WIDTH)
    shift_RC = load_rows(shift, first, channel_C, rows, BLOCK_ROWS, WIDTH, "")
    return (hat_RC * open_RC + shift_RC.to(tl.float32)).to(a.dtype.element_ty)


@triton.jit(do_not_specialize=["rows", "samples"])
def forward(
    a,
    scale,
    shift,
    y,
    rows,
    samples,
    epsilon,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """Compute one tile of a condition's rows, for the samples that share it."""
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    group = tl.cast(tl.program_id(1), tl.int64)
    channel_C = tl.arange(0, BLOCK_WIDTH)
    open_RC = load_open(scale + group * rows * WIDTH, first, channel_C, rows, BLOCK_ROWS, WIDTH)
    shift += group * rows * WIDTH
    shift_RC = load_rows(shift, first, channel_C, rows, BLOCK_ROWS, WIDTH, "").to(tl.float32)
    for sample in range(0, samples):
        offset = (group * samples + sample) * rows * WIDTH
        hat_RC, _rsigma_R = load_hat(a + offset, first, channel_C, rows, epsilon, BLOCK_ROWS, WIDTH)
        y_RC = hat_RC * open_RC + shift_RC
        store_rows(y + offset, first, channel_C, rows, y_RC, BLOCK_ROWS, WIDTH)


@triton.jit(do_not_specialize=["rows", "samples"])
def backward(
    a,
    scale,
    gate,
    dy,
    block_grad,
    update,
    da,
    dscale,
    dshift,
    dgate,
    rows,
    samples,
    epsilon,
    BESIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """Compute all gradients for one tile of a condition's rows.

    With `BESIDE`, the gradient `block_grad` of a full block's result is added to that of `a`; times
    the block's `update` it is the gradient of the block's gate.
    """
    first = tl.cast(tl.program_id(0), tl.int64) * BLOCK_ROWS
    group = tl.cast(tl.program_id(1), tl.int64)
    channel_C = tl.arange(0, BLOCK_WIDTH)
    shared = group * rows * WIDTH
    open_RC = load_open(scale + shared, first, channel_C, rows, BLOCK_ROWS, WIDTH)
    dscale_RC = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    dshift_RC = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    dgate_RC = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    for sample in range(0, samples):
        offset = (group * samples + sample) * rows * WIDTH
        hat_RC, rsigma_R = load_hat(a + offset, first, channel_C, rows, epsilon, BLOCK_ROWS, WIDTH)
        dy_RC = load_rows(dy + offset, first, channel_C, rows, BLOCK_ROWS, WIDTH, "").to(tl.float32)
        dscale_RC += dy_RC * hat_RC
        dshift_RC += dy_RC
        da_RC = normalize_backward(dy_RC * open_RC, hat_RC, rsigma_R, WIDTH)
        if BESIDE:
            block_grad_RC = load_rows(
                block_grad + offset, first, channel_C, rows, BLOCK_ROWS, WIDTH, ""
            )
            update_RC = load_rows(update + offset, first, channel_C, rows, BLOCK_ROWS, WIDTH, "")
            da_RC += block_grad_RC.to(tl.float32)
            dgate_RC += block_grad_RC.to(tl.float32) * update_RC.to(tl.float32)
        store_rows(da + offset, first, channel_C, rows, da_RC, BLOCK_ROWS, WIDTH)
    dscale_RC *= open_RC * (1.0 - open_RC)
    store_rows(dscale + shared, first, channel_C, rows, dscale_RC, BLOCK_ROWS, WIDTH)
    store_rows(dshift + shared, first, channel_C, rows, dshift_RC, BLOCK_ROWS, WIDTH)
    if BESIDE:
        open_RC = load_open(gate + shared, first, channel_C, rows, BLOCK_ROWS, WIDTH)
        dgate_RC *= open_RC * (1.0 - open_RC)
        store_rows(dgate + shared, first, channel_C, rows, dgate_RC, BLOCK_ROWS, WIDTH)
