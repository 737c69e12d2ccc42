"""Triangle attention in Triton: what runs on the device, forward and backward.

From what forward leaves of each query, backward makes softmax's weights again: e^(logit − shift),
with the log-sum-exp for the shift, +∞ for a query without keys. In float32 the rounding of a
logarithm would show: there the shift is the highest logit, and a factor divides by the sum.

Shape suffixes: Q queries of a tile, K keys of a tile, D head width, padded to a power of two.
"""

import triton
import triton.language as tl

_LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _load_tile(
    base,
    strides,
    first,
    tokens,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    EVEN: tl.constexpr,
):
    """[BLOCK, BLOCK_WIDTH] of one row and head from token `first` on; 0 outside."""
    places, width = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_WIDTH)[None, :]
    pointers = base + tl.cast(first, tl.int64) * strides[2]
    pointers += places * strides[2] + width * strides[4]
    if EVEN and WIDTH == BLOCK_WIDTH:
        return tl.load(pointers)
    return tl.load(pointers, mask=(first + places < tokens) & (width < WIDTH), other=0.0)


@triton.jit
def _store_tile(
    base,
    strides,
    first,
    tokens,
    values,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    """The counterpart of `_load_tile`."""
    places, width = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK_WIDTH)[None, :]
    pointers = base + tl.cast(first, tl.int64) * strides[2]
    pointers += places * strides[2] + width * strides[4]
    inside = (first + places < tokens) & (width < WIDTH)
    tl.store(pointers, values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _load_bias(
    base,
    strides,
    first_row,
    first_column,
    rows,
    columns,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    EVEN: tl.constexpr,
):
    """[BLOCK_ROWS, BLOCK_COLUMNS] of one head's bias in float32; 0 outside."""
    row, column = tl.arange(0, BLOCK_ROWS)[:, None], tl.arange(0, BLOCK_COLUMNS)[None, :]
    pointers = base + tl.cast(first_row, tl.int64) * strides[2]
    pointers += tl.cast(first_column, tl.int64) * strides[3]
    pointers += row * strides[2] + column * strides[3]
    if EVEN:
        return tl.load(pointers).to(tl.float32)
    inside = (first_row + row < rows) & (first_column + column < columns)
    return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _load_keep(base, strides, first, keys, BLOCK: tl.constexpr):
    """[BLOCK] whether a key counts; False outside."""
    key = first + tl.arange(0, BLOCK)
    return tl.load(base + tl.cast(key, tl.int64) * strides[2], mask=key < keys, other=0) != 0


@triton.jit
def _at(pointer, strides, batch, row, head):
    """Where a row and head of a [batch, row, token, head, width] tensor begin."""
    offset = tl.cast(batch, tl.int64) * strides[0] + tl.cast(row, tl.int64) * strides[1]
    return pointer + offset + head * strides[3]


@triton.jit
def _line(pointer, batch, row, head, rows, heads, queries):
    """Where a row and head of a dense [batch, row, head, query] tensor begin."""
    return pointer + ((tl.cast(batch, tl.int64) * rows + row) * heads + head) * queries


@triton.jit
def _power(logits, shift, EXACT: tl.constexpr):
    """e^(logit − shift); exact to the last bits, or one multiply-add and a power of two."""
    if EXACT:
        return tl.exp2((logits - shift) * _LOG2E)
    return tl.exp2(logits * _LOG2E - shift * _LOG2E)


@triton.jit
def _softmax(logits, shift, factor, keep, EXACT: tl.constexpr):
    """Softmax's weights, from what forward left."""
    weights = _power(logits, shift, EXACT)
    if EXACT:
        weights *= factor
    return tl.where(keep, weights, 0.0)


@triton.jit
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
):
    """One tile of queries of one row and head: online softmax over the keys."""
    program = tl.program_id(0)
    tiles = tl.cdiv(queries, BLOCK_Q)
    first_query = program % tiles * BLOCK_Q
    head = program // tiles % heads
    row = program // tiles // heads % rows
    batch = program // tiles // heads // rows

    k = _at(k, k_strides, batch, row, head)
    v = _at(v, v_strides, batch, row, head)
    bias += tl.cast(batch, tl.int64) * bias_strides[0] + tl.cast(head, tl.int64) * bias_strides[1]
    mask += tl.cast(batch, tl.int64) * mask_strides[0] + tl.cast(row, tl.int64) * mask_strides[1]
    q = _at(q, q_strides, batch, row, head)
    q_QD = _load_tile(q, q_strides, first_query, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN)
    q_QD = (q_QD * scale).to(q.dtype.element_ty)
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32

    peak_Q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total_Q = tl.zeros([BLOCK_Q], tl.float32)
    out_QD = tl.zeros([BLOCK_Q, BLOCK_WIDTH], tl.float32)
    for first in range(0, keys, BLOCK_K):
        k_KD = _load_tile(k, k_strides, first, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN)
        bias_QK = _load_bias(
            bias, bias_strides, first_query, first, queries, keys, BLOCK_Q, BLOCK_K, EVEN
        )
        keep_K = _load_keep(mask, mask_strides, first, keys, BLOCK_K)
        logits_QK = tl.dot(q_QD, tl.trans(k_KD), bias_QK, input_precision="ieee")
        logits_QK = tl.where(keep_K[None, :], logits_QK, float("-inf"))
        higher_Q = tl.maximum(peak_Q, tl.max(logits_QK, 1))
        # A query that has met no key yet must not subtract −∞ from −∞.
        shift_Q = tl.where(higher_Q == float("-inf"), 0.0, higher_Q)
        weights_QK = _power(logits_QK, shift_Q[:, None], EXACT)
        fade_Q = tl.exp2((peak_Q - shift_Q) * _LOG2E)
        total_Q = total_Q * fade_Q + tl.sum(weights_QK, 1)
        v_KD = _load_tile(v, v_strides, first, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN)
        out_QD = tl.dot(
            weights_QK.to(v_KD.dtype), v_KD, out_QD * fade_Q[:, None], input_precision="ieee"
        )
        peak_Q = higher_Q

    query = first_query + tl.arange(0, BLOCK_Q)
    line = _line(0, batch, row, head, rows, heads, queries)
    found_Q = total_Q > 0
    total_Q = tl.where(found_Q, total_Q, 1.0)
    if EXACT:
        shift_Q = tl.where(found_Q, peak_Q, 0.0)
        factor_Q = tl.where(found_Q, 1.0 / total_Q, 0.0)
        tl.store(factor + line + query, factor_Q, mask=query < queries)
    else:
        shift_Q = tl.where(found_Q, peak_Q + tl.log(total_Q), float("inf"))
    tl.store(shift + line + query, shift_Q, mask=query < queries)
    out_QD = tl.where(found_Q[:, None], out_QD / total_Q[:, None], 0.0)
    out = _at(out, out_strides, batch, row, head)
    _store_tile(out, out_strides, first_query, queries, out_QD, BLOCK_Q, WIDTH, BLOCK_WIDTH)


@triton.jit
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
    EVEN: tl.constexpr,
):
    """Σ out · grad over the head width: what softmax's gradient subtracts from each query."""
    program = tl.program_id(0)
    tiles = tl.cdiv(queries, BLOCK_Q)
    first = program % tiles * BLOCK_Q
    head = program // tiles % heads
    row = program // tiles // heads % rows
    batch = program // tiles // heads // rows
    out = _at(out, out_strides, batch, row, head)
    grad = _at(grad, grad_strides, batch, row, head)
    out_QD = _load_tile(out, out_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN)
    grad_QD = _load_tile(grad, grad_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN)
    delta_Q = tl.sum(out_QD.to(tl.float32) * grad_QD.to(tl.float32), 1)
    query = first + tl.arange(0, BLOCK_Q)
    delta = _line(delta, batch, row, head, rows, heads, queries)
    tl.store(delta + query, delta_Q, mask=query < queries)


@triton.jit
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
):
    """The gradients of q, k and v of one row and head.

    Tiles of keys stay while the queries pass by, so the gradient of a query is a sum over tiles:
    it is kept in `sums`, float32, by this program alone, and added to in the order of the tiles.
    `bias` comes transposed, [batch, head, key, query], as its tiles are read here.
    """
    program = tl.program_id(0)
    head = program % heads
    row = program // heads % rows
    batch = program // heads // rows
    q = _at(q, q_strides, batch, row, head)
    k = _at(k, k_strides, batch, row, head)
    v = _at(v, v_strides, batch, row, head)
    grad = _at(grad, grad_strides, batch, row, head)
    sums = _at(sums, sums_strides, batch, row, head)
    dq = _at(dq, dq_strides, batch, row, head)
    dk = _at(dk, dk_strides, batch, row, head)
    dv = _at(dv, dv_strides, batch, row, head)
    bias += tl.cast(batch, tl.int64) * bias_strides[0] + tl.cast(head, tl.int64) * bias_strides[1]
    mask += tl.cast(batch, tl.int64) * mask_strides[0] + tl.cast(row, tl.int64) * mask_strides[1]
    shift = _line(shift, batch, row, head, rows, heads, queries)
    factor = _line(factor, batch, row, head, rows, heads, queries)
    delta = _line(delta, batch, row, head, rows, heads, queries)
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32

    for first_key in range(0, keys, BLOCK_K):
        k_KD = _load_tile(k, k_strides, first_key, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN)
        v_KD = _load_tile(v, v_strides, first_key, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN)
        keep_K = _load_keep(mask, mask_strides, first_key, keys, BLOCK_K)
        dk_KD = tl.zeros([BLOCK_K, BLOCK_WIDTH], tl.float32)
        dv_KD = tl.zeros([BLOCK_K, BLOCK_WIDTH], tl.float32)
        for first in range(0, queries, BLOCK_Q):
            query = first + tl.arange(0, BLOCK_Q)
            q_QD = _load_tile(q, q_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN)
            q_QD = (q_QD * scale).to(q.dtype.element_ty)
            grad_QD = _load_tile(
                grad, grad_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN
            )
            bias_KQ = _load_bias(
                bias, bias_strides, first_key, first, keys, queries, BLOCK_K, BLOCK_Q, EVEN
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
                dq_QD += _load_tile(
                    sums, sums_strides, first, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN
                )
            if first_key + BLOCK_K < keys:
                _store_tile(sums, sums_strides, first, queries, dq_QD, BLOCK_Q, WIDTH, BLOCK_WIDTH)
            else:
                _store_tile(dq, dq_strides, first, queries, dq_QD, BLOCK_Q, WIDTH, BLOCK_WIDTH)
        _store_tile(dk, dk_strides, first_key, keys, dk_KD, BLOCK_K, WIDTH, BLOCK_WIDTH)
        _store_tile(dv, dv_strides, first_key, keys, dv_KD, BLOCK_K, WIDTH, BLOCK_WIDTH)
        # The next tile of keys reads sums that other threads of this program wrote.
        tl.debug_barrier()


@triton.jit
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
    planes,
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
):
    """One tile of the gradient of the bias, summed in registers over a chunk of rows, in order.

    `planes` is dense [batch, chunk, head, query, key].
    """
    program = tl.program_id(0)
    key_tiles, query_tiles = tl.cdiv(keys, BLOCK_K), tl.cdiv(queries, BLOCK_Q)
    first_key = program % key_tiles * BLOCK_K
    program = program // key_tiles
    first_query = program % query_tiles * BLOCK_Q
    program = program // query_tiles
    head = program % heads
    chunk = program // heads % chunks
    batch = program // heads // chunks
    bias += tl.cast(batch, tl.int64) * bias_strides[0] + tl.cast(head, tl.int64) * bias_strides[1]
    bias_QK = _load_bias(
        bias, bias_strides, first_query, first_key, queries, keys, BLOCK_Q, BLOCK_K, EVEN
    )
    query = first_query + tl.arange(0, BLOCK_Q)
    each = tl.cdiv(rows, chunks)
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32
    sum_QK = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
    for row in range(chunk * each, tl.minimum(chunk * each + each, rows)):
        q_QD = _load_tile(
            _at(q, q_strides, batch, row, head),
            *(q_strides, first_query, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN),
        )
        q_QD = (q_QD * scale).to(q.dtype.element_ty)
        grad_QD = _load_tile(
            _at(grad, grad_strides, batch, row, head),
            *(grad_strides, first_query, queries, BLOCK_Q, WIDTH, BLOCK_WIDTH, EVEN),
        )
        k_KD = _load_tile(
            _at(k, k_strides, batch, row, head),
            *(k_strides, first_key, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN),
        )
        v_KD = _load_tile(
            _at(v, v_strides, batch, row, head),
            *(v_strides, first_key, keys, BLOCK_K, WIDTH, BLOCK_WIDTH, EVEN),
        )
        keeps = mask + tl.cast(batch, tl.int64) * mask_strides[0]
        keeps += tl.cast(row, tl.int64) * mask_strides[1]
        keep_K = _load_keep(keeps, mask_strides, first_key, keys, BLOCK_K)
        line = _line(0, batch, row, head, rows, heads, queries)
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
    pointers = planes + plane * queries * keys + tl.cast(query, tl.int64)[:, None] * keys
    tl.store(pointers + key[None, :], sum_QK.to(planes.dtype.element_ty), mask=inside)
