"""Triangle attention in Triton, forward and backward.

From the statistics that forward stores for each query, backward recomputes softmax's weights as
e^(logit − shift), where the shift is the log-sum-exp, and +∞ for a query without keys. In float32
the rounding of a logarithm would show: there the shift is the highest logit, and a factor divides
by the sum.

Shape suffixes: Q queries of a tile, K keys of a tile, D head width, padded to a power of two.
"""

import triton
import triton.language as tl

from refsys.ops.specialization.kernels import in_units
from refsys.ops.triangle_attention.tiles import (
    line_at,
    load_bias,
    load_keep,
    load_tile,
    plane_at,
    program_indices,
    query_line,
    store_tile,
)


@triton.jit
def _power(logits, shift, EXACT: tl.constexpr):
    """Return e^(logit − shift), exact to the last bits, or with one multiply-add and exp2."""
    # Not a global of the module: those make a kernel's name in Triton's cache depend on the kernel
    # launched before it.
    LOG2E: tl.constexpr = 1.4426950408889634
    if EXACT:
        return tl.exp2((logits - shift) * LOG2E)
    return tl.exp2(logits * LOG2E - shift * LOG2E)


@triton.jit
def _softmax(logits, shift, factor, keep, EXACT: tl.constexpr):
    """Return softmax's weights from the statistics of forward."""
    weights = _power(logits, shift, EXACT)
    if EXACT:
        weights *= factor
    return tl.where(keep, weights, 0.0)


@triton.jit(do_not_specialize=["rows", "queries", "keys", "heads"])
def forward(
    q,
    q_strides,
    k,
    k_strides,
    v,
    v_strides,
    bias,
    bias_strides,
    mask,
    mask_strides,
    out,
    out_strides,
    shift,
    factor,
    rows,
    queries,
    keys,
    heads,
    scale,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    UNIT: tl.constexpr,
    BIAS_UNIT: tl.constexpr,
):
    """Compute one tile of queries of one row and head by online softmax over the keys.

    Queries, keys and strides of the mask are multiples of UNIT, strides of the bias of BIAS_UNIT,
    except the last ones.
    """
    queries, keys = in_units(queries, UNIT), in_units(keys, UNIT)
    tile, head, row, batch = program_indices(tl.cdiv(queries, BLOCK_Q), heads, rows)
    first_query = tile * BLOCK_Q

    k = line_at(k, k_strides, batch, row, head)
    v = line_at(v, v_strides, batch, row, head)
    bias = plane_at(bias, bias_strides, batch, head, BIAS_UNIT)
    mask = plane_at(mask, mask_strides, batch, row, UNIT)
    q = line_at(q, q_strides, batch, row, head)
    q_QD = load_tile(q, q_strides, first_query, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN)
    q_QD = (q_QD * scale).to(q.dtype.element_ty)
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32

    peak_Q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total_Q = tl.zeros([BLOCK_Q], tl.float32)
    out_QD = tl.zeros([BLOCK_Q, BLOCK_WIDTH], tl.float32)
    for first in range(0, keys, BLOCK_K):
        k_KD = load_tile(k, k_strides, first, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN)
        bias_QK = load_bias(
            bias,
            bias_strides,
            first_query,
            first,
            queries,
            keys,
            BLOCK_Q,
            BLOCK_K,
            EVEN,
            BIAS_UNIT,
        )
        keep_K = load_keep(mask, mask_strides, first, keys, BLOCK_K)
        logits_QK = tl.dot(q_QD, tl.trans(k_KD), bias_QK, input_precision="ieee")
        logits_QK = tl.where(keep_K[None, :], logits_QK, float("-inf"))
        higher_Q = tl.maximum(peak_Q, tl.max(logits_QK, 1))
        # Avoids −∞ − (−∞) for a query that has had no key yet.
        shift_Q = tl.where(higher_Q == float("-inf"), 0.0, higher_Q)
        weights_QK = _power(logits_QK, shift_Q[:, None], EXACT)
        fade_Q = _power(peak_Q, shift_Q, True)
        total_Q = total_Q * fade_Q + tl.sum(weights_QK, 1)
        v_KD = load_tile(v, v_strides, first, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN)
        out_QD = tl.dot(
            weights_QK.to(v_KD.dtype), v_KD, out_QD * fade_Q[:, None], input_precision="ieee"
        )
        peak_Q = higher_Q

    query = first_query + tl.arange(0, BLOCK_Q)
    line = query_line(0, batch, row, head, rows, heads, queries)
    has_keys_Q = total_Q > 0
    total_Q = tl.where(has_keys_Q, total_Q, 1.0)
    if EXACT:
        shift_Q = tl.where(has_keys_Q, peak_Q, 0.0)
        factor_Q = tl.where(has_keys_Q, 1.0 / total_Q, 0.0)
        tl.store(factor + line + query, factor_Q, mask=query < queries)
    else:
        shift_Q = tl.where(has_keys_Q, peak_Q + tl.log(total_Q), float("inf"))
    tl.store(shift + line + query, shift_Q, mask=query < queries)
    out_QD = tl.where(has_keys_Q[:, None], out_QD / total_Q[:, None], 0.0)
    out = line_at(out, out_strides, batch, row, head)
    store_tile(out, out_strides, first_query, queries, out_QD, BLOCK_Q, WIDTH, BLOCK_WIDTH)


@triton.jit(do_not_specialize=["rows", "queries", "heads"])
def delta(
    out,
    out_strides,
    grad,
    grad_strides,
    delta,
    rows,
    queries,
    heads,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
):
    """Compute Σ out · grad over the head width, which softmax's gradient subtracts."""
    tile, head, row, batch = program_indices(tl.cdiv(queries, BLOCK_Q), heads, rows)
    first = tile * BLOCK_Q
    out = line_at(out, out_strides, batch, row, head)
    grad = line_at(grad, grad_strides, batch, row, head)
    out_QD = load_tile(out, out_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, False)
    grad_QD = load_tile(grad, grad_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, False)
    delta_Q = tl.sum(out_QD.to(tl.float32) * grad_QD.to(tl.float32), 1)
    query = first + tl.arange(0, BLOCK_Q)
    delta = query_line(delta, batch, row, head, rows, heads, queries)
    tl.store(delta + query, delta_Q, mask=query < queries)


@triton.jit(do_not_specialize=["rows", "queries", "keys", "heads"])
def backward_tokens(
    q,
    q_strides,
    k,
    k_strides,
    v,
    v_strides,
    bias,
    bias_strides,
    mask,
    mask_strides,
    grad,
    grad_strides,
    shift,
    factor,
    delta,
    sums,
    sums_strides,
    dq,
    dq_strides,
    dk,
    dk_strides,
    dv,
    dv_strides,
    rows,
    queries,
    keys,
    heads,
    scale,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    UNIT: tl.constexpr,
    BIAS_UNIT: tl.constexpr,
):
    """Compute the gradients of q, k and v of one row and head.

    The outer loop is over tiles of keys, so the gradient of a query is a sum over tiles: it is
    accumulated in `sums`, float32, by this program alone, in the order of the tiles. `bias` is
    transposed, [batch, head, key, query], as its tiles are read here.
    """
    queries, keys = in_units(queries, UNIT), in_units(keys, UNIT)
    _tile, head, row, batch = program_indices(1, heads, rows)
    q = line_at(q, q_strides, batch, row, head)
    k = line_at(k, k_strides, batch, row, head)
    v = line_at(v, v_strides, batch, row, head)
    grad = line_at(grad, grad_strides, batch, row, head)
    sums = line_at(sums, sums_strides, batch, row, head)
    dq = line_at(dq, dq_strides, batch, row, head)
    dk = line_at(dk, dk_strides, batch, row, head)
    dv = line_at(dv, dv_strides, batch, row, head)
    bias = plane_at(bias, bias_strides, batch, head, BIAS_UNIT)
    mask = plane_at(mask, mask_strides, batch, row, UNIT)
    shift = query_line(shift, batch, row, head, rows, heads, queries)
    factor = query_line(factor, batch, row, head, rows, heads, queries)
    delta = query_line(delta, batch, row, head, rows, heads, queries)
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32

    for first_key in range(0, keys, BLOCK_K):
        k_KD = load_tile(k, k_strides, first_key, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN)
        v_KD = load_tile(v, v_strides, first_key, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN)
        keep_K = load_keep(mask, mask_strides, first_key, keys, BLOCK_K)
        dk_KD = tl.zeros([BLOCK_K, BLOCK_WIDTH], tl.float32)
        dv_KD = tl.zeros([BLOCK_K, BLOCK_WIDTH], tl.float32)
        for first in range(0, queries, BLOCK_Q):
            query = first + tl.arange(0, BLOCK_Q)
            q_QD = load_tile(q, q_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN)
            q_QD = (q_QD * scale).to(q.dtype.element_ty)
            grad_QD = load_tile(
                grad, grad_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN
            )
            bias_KQ = load_bias(
                bias,
                bias_strides,
                first_key,
                first,
                keys,
                queries,
                BLOCK_K,
                BLOCK_Q,
                EVEN,
                BIAS_UNIT,
            )
            shift_Q = tl.load(shift + query, mask=query < queries, other=float("inf"))
            factor_Q = tl.load(factor + query, mask=query < queries, other=0.0)
            delta_Q = tl.load(delta + query, mask=query < queries, other=0.0)
            logits_KQ = tl.dot(k_KD, tl.trans(q_QD), bias_KQ, input_precision="ieee")
            weights_KQ = _softmax(
                logits_KQ, shift_Q[None, :], factor_Q[None, :], keep_K[:, None], EXACT
            )
            slopes_KQ = tl.dot(v_KD, tl.trans(grad_QD), input_precision="ieee")
            slopes_KQ = (weights_KQ * (slopes_KQ - delta_Q[None, :])).to(q_QD.dtype)
            dv_KD = tl.dot(weights_KQ.to(q_QD.dtype), grad_QD, dv_KD, input_precision="ieee")
            dk_KD = tl.dot(slopes_KQ, q_QD, dk_KD, input_precision="ieee")
            dq_QD = tl.dot(tl.trans(slopes_KQ), k_KD, input_precision="ieee") * scale
            if first_key > 0:
                dq_QD += load_tile(
                    sums, sums_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN
                )
            if first_key + BLOCK_K < keys:
                store_tile(sums, sums_strides, first, queries, dq_QD, BLOCK_Q, WIDTH, BLOCK_WIDTH)
            else:
                store_tile(dq, dq_strides, first, queries, dq_QD, BLOCK_Q, WIDTH, BLOCK_WIDTH)
        store_tile(dk, dk_strides, first_key, keys, dk_KD, BLOCK_K, WIDTH, BLOCK_WIDTH)
        store_tile(dv, dv_strides, first_key, keys, dv_KD, BLOCK_K, WIDTH, BLOCK_WIDTH)
        # The next tile of keys reads sums written by other threads of this program.
        tl.debug_barrier()


@triton.jit(do_not_specialize=["rows", "queries", "keys", "heads", "chunks"])
def backward_bias(
    q,
    q_strides,
    k,
    k_strides,
    v,
    v_strides,
    bias,
    bias_strides,
    mask,
    mask_strides,
    grad,
    grad_strides,
    shift,
    factor,
    delta,
    partials,
    rows,
    queries,
    keys,
    heads,
    chunks,
    scale,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    EVEN: tl.constexpr,
    UNIT: tl.constexpr,
    BIAS_UNIT: tl.constexpr,
):
    """Compute a tile of the bias gradient, summed in registers over a chunk of rows, in order.

    `partials` is dense [batch, chunk, head, query, key].
    """
    queries, keys = in_units(queries, UNIT), in_units(keys, UNIT)
    program = tl.program_id(0)
    key_tiles, query_tiles = tl.cdiv(keys, BLOCK_K), tl.cdiv(queries, BLOCK_Q)
    first_key = program % key_tiles * BLOCK_K
    program = program // key_tiles
    first_query = program % query_tiles * BLOCK_Q
    program = program // query_tiles
    head = program % heads
    chunk = program // heads % chunks
    batch = program // heads // chunks
    bias = plane_at(bias, bias_strides, batch, head, BIAS_UNIT)
    bias_QK = load_bias(
        bias,
        bias_strides,
        first_query,
        first_key,
        queries,
        keys,
        BLOCK_Q,
        BLOCK_K,
        EVEN,
        BIAS_UNIT,
    )
    query = first_query + tl.arange(0, BLOCK_Q)
    rows_per_chunk = tl.cdiv(rows, chunks)
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32
    sum_QK = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
    for row in range(
        chunk * rows_per_chunk, tl.minimum(chunk * rows_per_chunk + rows_per_chunk, rows)
    ):
        q_QD = load_tile(
            line_at(q, q_strides, batch, row, head),
            q_strides,
            first_query,
            queries,
            BLOCK_Q,
            WIDTH,
            BLOCK_WIDTH,
            EVEN,
        )
        q_QD = (q_QD * scale).to(q.dtype.element_ty)
        grad_QD = load_tile(
            line_at(grad, grad_strides, batch, row, head),
            grad_strides,
            first_query,
            queries,
            BLOCK_Q,
            WIDTH,
            BLOCK_WIDTH,
            EVEN,
        )
        k_KD = load_tile(
            line_at(k, k_strides, batch, row, head),
            k_strides,
            first_key,
            keys,
            BLOCK_K,
            WIDTH,
            BLOCK_WIDTH,
            EVEN,
        )
        v_KD = load_tile(
            line_at(v, v_strides, batch, row, head),
            v_strides,
            first_key,
            keys,
            BLOCK_K,
            WIDTH,
            BLOCK_WIDTH,
            EVEN,
        )
        row_mask = plane_at(mask, mask_strides, batch, row, UNIT)
        keep_K = load_keep(row_mask, mask_strides, first_key, keys, BLOCK_K)
        line = query_line(0, batch, row, head, rows, heads, queries)
        shift_Q = tl.load(shift + line + query, mask=query < queries, other=float("inf"))
        factor_Q = tl.load(factor + line + query, mask=query < queries, other=0.0)
        delta_Q = tl.load(delta + line + query, mask=query < queries, other=0.0)
        logits_QK = tl.dot(q_QD, tl.trans(k_KD), bias_QK, input_precision="ieee")
        weights_QK = _softmax(
            logits_QK, shift_Q[:, None], factor_Q[:, None], keep_K[None, :], EXACT
        )
        slopes_QK = tl.dot(grad_QD, tl.trans(v_KD), input_precision="ieee")
        sum_QK += weights_QK * (slopes_QK - delta_Q[:, None])
    plane = (tl.cast(batch, tl.int64) * chunks + chunk) * heads + head
    key = first_key + tl.arange(0, BLOCK_K)
    inside = (query < queries)[:, None] & (key < keys)[None, :]
    pointers = partials + plane * queries * keys + tl.cast(query, tl.int64)[:, None] * keys
    tl.store(pointers + key[None, :], sum_QK.to(partials.dtype.element_ty), mask=inside)
