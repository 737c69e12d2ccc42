"""Outer product mean on Triton kernels, as one custom operator.

The products are the vendor's, of some tokens i at a time, so that at any time they are no more than
the pair tensor has elements. The operands are saved for backward, which recomputes the products.
The gradient of b takes some tokens j at a time instead, so that each of its sums is one product.

Shape suffixes: B batch, S MSA rows, I tokens i times channels, J tokens j times channels.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.planes.triton import PartialSums, reduce
from refsys.ops.triton_backend import (
    custom_operator,
    dense,
    launch,
    launch_options,
    padded_width,
    product,
    split,
    tiles,
    unsupported_by_triton,
)
from refsys.ops.weight_copies import in_dtype
from refsys.ops.workspace import workspace

# Wider positions do not fit in a program's registers.
MAXIMUM_WIDTH = 128
# Programs of the weights' gradients, each a channel of the first operand and a part of the tokens.
_PROGRAMS = 256


def unsupported_reason(
    a: Tensor,
    b: Tensor,
    mask_a: Tensor,
    mask_b: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    accumulation: torch.dtype,
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if accumulation != torch.float32:
        return f"sums are taken in float32, not in {accumulation}"
    if max(a.shape[-1], weight.shape[0]) > MAXIMUM_WIDTH:
        return f"positions are wider than {MAXIMUM_WIDTH}"
    return unsupported_by_triton(a, b, mask_a, mask_b, weight, bias)


def outer_product_mean(
    a: Tensor,
    b: Tensor,
    mask_a: Tensor,
    mask_b: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    accumulation: torch.dtype,
) -> Tensor:
    """See `refsys.ops.outer_product_mean.outer_product_mean`."""
    del accumulation
    out: Tensor = forward(a, b, mask_a, mask_b, weight, bias)[0]
    return out


class _Sides(NamedTuple):
    """Both operands with the MSA rows last, [batch, token · channel, MSA row]."""

    batch: int
    rows: int
    columns: int
    width: int
    a_BIS: Tensor
    b_BJS: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> "_Sides":
        """Return the operands of [batch, MSA row, token, channel]."""
        batch, _msa_depth, rows, width = a.shape
        transposed = (
            dense(f"outer_product_mean.{name}", operand, operand.dtype).flatten(2).transpose(1, 2)
            for name, operand in (("a", a), ("b", b))
        )
        return cls(batch, rows, b.shape[2], width, *transposed)

    def scratch(self, like: Tensor) -> Tensor:
        """Return scratch for the products of a part of `parts`."""
        least = self.batch * max(self.rows, self.columns) * self.width**2
        size = (max(like.numel(), least),)
        return workspace("outer_product_mean.products", size, dtype=like.dtype, device=like.device)

    def parts(self, count: int, like: Tensor) -> list[tuple[int, int]]:
        """Split tokens into parts whose products take no more than `like`, one token at least.

        Args:
            count: Number of tokens, `rows` or `columns`.
            like: The pair tensor.

        Returns:
            First token and number of tokens of each part.
        """
        products_per_token = self.batch * self.rows * self.columns // count * self.width**2
        at_once = max(1, like.numel() // products_per_token)
        return [(first, min(at_once, count - first)) for first in range(0, count, at_once)]

    def products(self, scratch: Tensor, rows: int, columns: int) -> Tensor:
        """Return a view [batch, row · channel, column · channel] of scratch."""
        shape = self.batch, rows * self.width, columns * self.width
        return scratch[: math.prod(shape)].view(shape)

    def at(self, first: int, count: int) -> slice:
        """Return the slice of the channels of some tokens."""
        return slice(first * self.width, (first + count) * self.width)


@custom_operator("outer_product_mean")
def forward(
    a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the update, and the number of MSA rows that cover each pair, [batch, i, j]."""
    sides = _Sides.of(a, b)
    out = a.new_empty((sides.batch, sides.rows, sides.columns, weight.shape[0]))
    half, count = in_dtype("outer_product_mean.weight", weight, a.dtype), _count(mask_a, mask_b)
    scratch = sides.scratch(out)
    options = _options("outer_product_mean.forward", out, sides.width)
    for first, rows in sides.parts(sides.rows, out):
        products = sides.products(scratch, rows, sides.columns)
        product(products, sides.a_BIS[:, sides.at(first, rows)], sides.b_BJS.transpose(1, 2))
        launch(
            "outer_product_mean.forward",
            (tiles(sides.columns, options["BLOCK_J"]), rows, sides.batch),
            products,
            half,
            bias,
            count,
            out,
            first,
            rows,
            sides.rows,
            sides.columns,
            **options,
        )
    return out, count


@custom_operator("outer_product_mean_backward")
def backward(
    d: Tensor, a: Tensor, b: Tensor, count: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of a and b, [batch, token · channel, MSA row]; of weight and bias."""
    sides = _Sides.of(a, b)
    d = dense("outer_product_mean.gradient", d, a.dtype)
    half = in_dtype("outer_product_mean.weight", weight, a.dtype)
    da, db = (
        torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (sides.a_BIS, sides.b_BJS)
    )
    scratch = sides.scratch(d)

    def products_backward(rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
        """Return the gradient of products; `rows` and `columns` are first and number of tokens."""
        dproducts = sides.products(scratch, rows[1], columns[1])
        options = _options("outer_product_mean.backward_products", d, sides.width)
        launch(
            "outer_product_mean.backward_products",
            (tiles(columns[1], options["BLOCK_J"]), rows[1], sides.batch),
            d,
            count,
            half,
            dproducts,
            *rows,
            sides.rows,
            *columns,
            sides.columns,
            **options,
        )
        return dproducts

    options = _options("outer_product_mean.backward_weights", d, sides.width)
    by_row = sides.parts(sides.rows, d)
    lines = sides.batch * by_row[0][1]
    most = min(tiles(_PROGRAMS, sides.width), d.numel() // (weight.numel() * len(by_row)))
    parts, lines_per_part = split(lines, max(1, most))
    partials = _partials("weight_planes", weight, len(by_row) * parts)
    sums = _partials("bias_planes", bias, len(by_row) * parts)
    for number, (first, rows) in enumerate(by_row):
        channels, part = sides.at(first, rows), slice(number * parts, (number + 1) * parts)
        products = sides.products(scratch, rows, sides.columns)
        product(products, sides.a_BIS[:, channels], sides.b_BJS.transpose(1, 2))
        launch(
            "outer_product_mean.backward_weights",
            (sides.width, parts),
            products,
            d,
            count,
            partials[0, part],
            sums[0, part],
            first,
            rows,
            sides.rows,
            sides.columns,
            sides.batch * rows,
            lines_per_part,
            **options,
        )
        dproducts = products_backward((first, rows), (0, sides.columns))
        product(da[:, channels], dproducts, sides.b_BJS)
    for first, columns in sides.parts(sides.columns, d):
        dproducts = products_backward((0, sides.rows), (first, columns))
        product(db[:, sides.at(first, columns)], dproducts.transpose(1, 2), sides.a_BIS)
    dweight, dbias = weight.new_empty(weight.shape), bias.new_empty(bias.shape)
    reduce(PartialSums(partials, dweight.unsqueeze(0)), PartialSums(sums, dbias.unsqueeze(0)))
    return da, db, dweight, dbias


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    a, b, _mask_a, _mask_b, weight, bias = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(a, b, output[1], weight, bias)


def _backward(ctx: Any, d: Tensor | None, _count: None) -> tuple[Tensor | None, ...]:
    if d is None:
        return (None,) * 6
    a, *saved = ctx.saved_tensors
    da, db, dweight, dbias = backward(d, a, *saved)
    doperands = (t.unflatten(1, (-1, a.shape[-1])).permute(0, 3, 1, 2) for t in (da, db))
    return *doperands, None, None, dweight, dbias


forward.register_autograd(_backward, setup_context=_setup_context)


def _products(a: Any, b: Any, weight: Any) -> int:
    batch, rows, tokens, width = a
    return 2 * batch * tokens * int(b[2]) * (rows * width**2 + math.prod(weight))


@register_flop_formula(torch.ops.foldperf.outer_product_mean)
def _flops(a: Any, b: Any, _mask: Any, _mask_b: Any, weight: Any, *_args: Any, **_o: Any) -> int:
    return _products(a, b, weight) + 2 * math.prod(a[:-1]) * int(b[2])


@register_flop_formula(torch.ops.foldperf.outer_product_mean_backward)
def _backward_flops(
    _d: Any, a: Any, b: Any, _count: Any, weight: Any, *_args: Any, **_o: Any
) -> int:
    """Return twice the products of forward; recomputation is not counted."""
    return 2 * _products(a, b, weight)


def _count(mask_a: Tensor, mask_b: Tensor) -> Tensor:
    """Return the exact number of MSA rows that cover each pair."""
    masks = [dense("outer_product_mean.mask", mask, torch.float32) for mask in (mask_a, mask_b)]
    shape = mask_a.shape[0], mask_a.shape[2], mask_b.shape[2]
    count = mask_a.new_empty(shape, dtype=torch.float32)
    product(count, masks[0].transpose(1, 2), masks[1])
    return count


def _options(kernel: str, like: Tensor, width: int) -> dict[str, Any]:
    """Return a kernel's launch options and the constants that follow from the shapes."""
    out = like.shape[-1]
    widths = {"WIDTH": width, "BLOCK_WIDTH": padded_width(width)}
    return launch_options(kernel, like) | widths | {"OUT": out, "BLOCK_OUT": padded_width(out)}


def _partials(name: str, like: Tensor, parts: int) -> Tensor:
    return workspace(
        f"outer_product_mean.{name}",
        (1, parts, *like.shape),
        dtype=torch.float32,
        device=like.device,
    )
