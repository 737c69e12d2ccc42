"""Linear layer and division by a count, after the products of an outer product mean.

The products of some tokens i with some tokens j have the layout of a batched product, [i, u, j, v],
and are read in it: for each i and u they are rows of v, one for each j.

Shape suffixes: J tokens j of a tile, V the second factor's channels, O output channels; V and O are
padded to powers of two.
"""

import triton
import triton.language as tl

from refsys.ops.layer_norm.kernels import load_rows, store_rows


@triton.jit
def _load_weight(weight, u, channel_V, out_O, WIDTH: tl.constexpr, OUT: tl.constexpr):
    """Load [O, V], the weights of one channel of the first factor; 0 outside."""
    pointers = weight + (out_O[:, None] * WIDTH + u) * WIDTH + channel_V[None, :]
    inside_OV = (out_O < OUT)[:, None] & (channel_V < WIDTH)[None, :]
    return tl.load(pointers, mask=inside_OV, other=0.0)


@triton.jit
def _load_per_row(count, first, columns, BLOCK_J: tl.constexpr):
    """Return [J], 1 / (10⁻³ + number of MSA rows that cover a pair); undefined outside."""
    column_J = first + tl.arange(0, BLOCK_J)
    return 1.0 / (tl.load(count + column_J, mask=column_J < columns, other=0.0) + 1e-3)


@triton.jit
def _line(batch, row, rows, WIDTH: tl.constexpr):
    """Return the first line of a token's products; there is one for each i and u."""
    return (tl.cast(batch, tl.int64) * rows + row) * WIDTH


@triton.jit(do_not_specialize=["first_row", "rows", "all_rows", "columns"])
def forward(
    products,
    weight,
    bias,
    count,
    out,
    first_row,
    rows,
    all_rows,
    columns,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Compute the update of one token i with a tile of tokens j."""
    first, row, batch = tl.program_id(0) * BLOCK_J, tl.program_id(1), tl.program_id(2)
    channel_V, out_O = tl.arange(0, BLOCK_WIDTH), tl.arange(0, BLOCK_OUT)
    products += _line(batch, row, rows, WIDTH) * columns * WIDTH
    out_JO = tl.zeros([BLOCK_J, BLOCK_OUT], tl.float32)
    for u in range(0, WIDTH):
        product_JV = load_rows(products, first, channel_V, columns, BLOCK_J, WIDTH, "")
        weight_OV = _load_weight(weight, u, channel_V, out_O, WIDTH, OUT)
        out_JO = tl.dot(product_JV, tl.trans(weight_OV), out_JO, input_precision="ieee")
        products += columns * WIDTH
    bias_O = tl.load(bias + out_O, mask=out_O < OUT, other=0.0).to(tl.float32)
    pair = (tl.cast(batch, tl.int64) * all_rows + first_row + row) * columns
    share_J = _load_per_row(count + pair, first, columns, BLOCK_J)
    out_JO = (out_JO + bias_O[None, :]) * share_J[:, None]
    store_rows(out + pair * OUT, first, out_O, columns, out_JO, BLOCK_J, OUT)


@triton.jit
def _load_gradient(d, count, pair, first, columns, out_O, BLOCK_J: tl.constexpr, OUT: tl.constexpr):
    """Load [J, O], the gradient of the linear layer's output; 0 outside."""
    d_JO = load_rows(d + pair * OUT, first, out_O, columns, BLOCK_J, OUT, "")
    share_J = _load_per_row(count + pair, first, columns, BLOCK_J)
    return (d_JO.to(tl.float32) * share_J[:, None]).to(d.dtype.element_ty)


@triton.jit(
    do_not_specialize=["first_row", "rows", "all_rows", "first_column", "columns", "all_columns"]
)
def backward_products(
    d,
    count,
    weight,
    dproducts,
    first_row,
    rows,
    all_rows,
    first_column,
    columns,
    all_columns,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Compute the gradient of the products of one token i with a tile of tokens j."""
    first, row, batch = tl.program_id(0) * BLOCK_J, tl.program_id(1), tl.program_id(2)
    channel_V, out_O = tl.arange(0, BLOCK_WIDTH), tl.arange(0, BLOCK_OUT)
    pair = (tl.cast(batch, tl.int64) * all_rows + first_row + row) * all_columns + first_column
    d_JO = _load_gradient(d, count, pair, first, columns, out_O, BLOCK_J, OUT)
    dproducts += _line(batch, row, rows, WIDTH) * columns * WIDTH
    for u in range(0, WIDTH):
        weight_OV = _load_weight(weight, u, channel_V, out_O, WIDTH, OUT)
        dproduct_JV = tl.dot(d_JO, weight_OV, input_precision="ieee")
        store_rows(dproducts, first, channel_V, columns, dproduct_JV, BLOCK_J, WIDTH)
        dproducts += columns * WIDTH


@triton.jit(
    do_not_specialize=["first_row", "rows", "all_rows", "columns", "lines", "lines_per_part"]
)
def backward_weights(
    products,
    d,
    count,
    partials,
    sums,
    first_row,
    rows,
    all_rows,
    columns,
    lines,
    lines_per_part,
    WIDTH: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    """Compute the gradients of one channel u's weights and of the bias over a part of the tokens i.

    `partials` is [part, OUT, WIDTH · WIDTH] and `sums` [part, OUT]; `lines` is the number of tokens
    i of all examples.
    """
    u, part = tl.program_id(0), tl.program_id(1)
    channel_V, out_O = tl.arange(0, BLOCK_WIDTH), tl.arange(0, BLOCK_OUT)
    dweight_OV = tl.zeros([BLOCK_OUT, BLOCK_WIDTH], tl.float32)
    sum_O = tl.zeros([BLOCK_OUT], tl.float32)
    for line in range(
        part * lines_per_part, tl.minimum(part * lines_per_part + lines_per_part, lines)
    ):
        batch, row = line // rows, line % rows
        base = products + (_line(batch, row, rows, WIDTH) + u) * columns * WIDTH
        pair = (tl.cast(batch, tl.int64) * all_rows + first_row + row) * columns
        for first in range(0, columns, BLOCK_J):
            product_JV = load_rows(base, first, channel_V, columns, BLOCK_J, WIDTH, "")
            d_JO = _load_gradient(d, count, pair, first, columns, out_O, BLOCK_J, OUT)
            dweight_OV = tl.dot(tl.trans(d_JO), product_JV, dweight_OV, input_precision="ieee")
            sum_O += tl.sum(d_JO.to(tl.float32), 0)
    partials += tl.cast(part, tl.int64) * OUT * WIDTH * WIDTH
    inside_OV = (out_O < OUT)[:, None] & (channel_V < WIDTH)[None, :]
    pointers = partials + (out_O[:, None] * WIDTH + u) * WIDTH + channel_V[None, :]
    tl.store(pointers, dweight_OV, mask=inside_OV)
    tl.store(sums + part * OUT + out_O, sum_O, mask=(out_O < OUT) & (u == 0))
