"""Stages of triangle multiplication on Triton kernels, one custom operator each.

The contraction is the vendor's batched product; the projection writes its operands in the layout of
that product, with channels in front. Each stage saves its inputs for backward, which recomputes the
rest.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.backend import flat_tensors
from refsys.ops.dropout_residual.reference import dropout_scale
from refsys.ops.planes.triton import PartialSums, outer, reduce
from refsys.ops.triangle_multiplication.reference import StageWeights
from refsys.ops.triton_backend import (
    custom_operator,
    dense,
    launch,
    launch_options,
    padded_width,
    split,
    tiles,
    unsupported_by_triton,
)
from refsys.ops.weight_copies import in_dtype
from refsys.ops.workspace import workspace

# Wider positions do not fit in a program's registers.
MAXIMUM_WIDTH = 128
_EPSILON = 1e-5
# Programs of the weights' gradients, each a chunk of an operand's channels and a part of the
# positions.
_PROGRAMS = 256


def unsupported_reason(
    z: Tensor, *arguments: Any, statistics: torch.dtype, rate: float = 0.0
) -> str | None:
    """See `refsys.ops.backend.Implementation`: for projection and epilogue."""
    del rate
    if statistics != torch.float32:
        return f"statistics are taken in float32, not in {statistics}"
    if z.shape[-1] > MAXIMUM_WIDTH:
        return f"positions are wider than {MAXIMUM_WIDTH}"
    return unsupported_by_triton(z, *flat_tensors(arguments))


def unsupported_contraction(a: Tensor, b: Tensor, *, outgoing: bool) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    del outgoing
    return unsupported_by_triton(a, b)


def projection(
    z: Tensor, mask: Tensor, weights: StageWeights, *, statistics: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """See `refsys.ops.triangle_multiplication.projection`; a and b have channels in front."""
    del statistics
    a, b, gate = project(z, mask, *weights)
    return a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1), gate


def epilogue(
    x: Tensor,
    gate: Tensor,
    weights: StageWeights,
    residual: Tensor | None,
    keep: Tensor | None,
    *,
    rate: float,
    statistics: torch.dtype,
) -> Tensor:
    """See `refsys.ops.triangle_multiplication.epilogue`."""
    del statistics
    planar = x.permute(0, 3, 1, 2)
    out: Tensor = finish(planar, gate, *weights, residual, keep, rate)
    return out


def contract(a: Tensor, b: Tensor, *, outgoing: bool) -> Tensor:
    """See `refsys.ops.triangle_multiplication.contraction`."""
    out: Tensor = _Contraction.apply(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2), outgoing)
    return out.permute(0, 2, 3, 1)


class _Contraction(torch.autograd.Function):
    """Batched product with channels in front; gradients have the layout of their operands."""

    @staticmethod
    def forward(ctx: Any, a_BCNN: Tensor, b_BCNN: Tensor, outgoing: bool) -> Tensor:
        ctx.save_for_backward(a_BCNN, b_BCNN)
        ctx.outgoing = outgoing
        if outgoing:
            return a_BCNN @ b_BCNN.transpose(-1, -2)
        return a_BCNN.transpose(-1, -2) @ b_BCNN

    @staticmethod
    def backward(ctx: Any, dx_BCNN: Tensor) -> tuple[Tensor, Tensor, None]:
        a_BCNN, b_BCNN = ctx.saved_tensors
        dx_transposed_BCNN = dx_BCNN.transpose(-1, -2)
        if ctx.outgoing:
            return dx_BCNN @ b_BCNN, dx_transposed_BCNN @ a_BCNN, None
        return b_BCNN @ dx_transposed_BCNN, a_BCNN @ dx_BCNN, None


@custom_operator("triangle_multiplication_projection")
def project(
    z: Tensor, mask: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return both operands [batch, channel, row, token], and the gate's logits, shaped like z."""
    batch, rows, tokens, width = z.shape
    a = z.new_empty((batch, width, rows, tokens))
    b, gate = torch.empty_like(a), z.new_empty(z.shape)
    options = _options("triangle_multiplication.projection", z, width)
    launch(
        "triangle_multiplication.projection",
        (tiles(rows * tokens, options["BLOCK_ROWS"]), batch),
        dense("triangle_multiplication.z", z, z.dtype),
        dense("triangle_multiplication.mask", mask, mask.dtype),
        norm_weight,
        norm_bias,
        in_dtype("triangle_multiplication.weight", weight, z.dtype),
        a,
        b,
        gate,
        rows * tokens,
        _EPSILON,
        **options,
    )
    return a, b, gate


@custom_operator("triangle_multiplication_projection_backward")
def project_backward(
    da: Tensor,
    db: Tensor,
    dgate: Tensor,
    z: Tensor,
    mask: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of z, of scale and offset [2, c], and of the weight."""
    batch, rows, tokens, width = z.shape
    positions = rows * tokens
    z = dense("triangle_multiplication.z", z, z.dtype)
    mask = dense("triangle_multiplication.mask", mask, mask.dtype)
    matrix = in_dtype("triangle_multiplication.weight", weight, z.dtype)
    da, db, dgate = (
        dense(f"triangle_multiplication.d{name}", tensor, z.dtype)
        for name, tensor in (("a", da), ("b", db), ("gate", dgate))
    )
    dz, y = z.new_empty(z.shape), _scratch("normalized", z)
    options = _options("triangle_multiplication.projection_backward_rows", z, width)
    count = tiles(positions, options["BLOCK_ROWS"])
    norm_partials = _partials("norm_planes", z, (1, batch * count, 2, width))
    launch(
        "triangle_multiplication.projection_backward_rows",
        (count, batch),
        z,
        mask,
        norm_weight,
        norm_bias,
        matrix,
        da,
        db,
        dgate,
        dz,
        y,
        norm_partials,
        positions,
        _EPSILON,
        **options,
    )

    options = _options("triangle_multiplication.projection_backward_weights", z, width)
    chunks = 2 * tiles(width, options["BLOCK_OUT"])
    most = min(tiles(_PROGRAMS, chunks * batch), positions // (2 * width))
    parts, tiles_per_part = split(tiles(positions, options["BLOCK_ROWS"]), max(1, most))
    partials = _partials("weight_planes", z, (1, batch * parts, 4, width, width))
    launch(
        "triangle_multiplication.projection_backward_weights",
        (parts * chunks, batch),
        y,
        mask,
        matrix,
        da,
        db,
        partials,
        positions,
        tiles_per_part,
        **options,
    )
    dnorm, dweight = norm_weight.new_empty((2, width)), weight.new_empty(weight.shape)
    reduce(
        PartialSums(norm_partials, dnorm.unsqueeze(0)),
        PartialSums(partials, dweight[: 4 * width].unsqueeze(0)),
        *outer(dgate, y, dweight[4 * width :]),
    )
    return dz, dnorm, dweight


@custom_operator("triangle_multiplication_epilogue")
def finish(
    x: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    keep: Tensor | None,
    rate: float,
) -> Tensor:
    """Return the update, or residual + update; x is [batch, channel, row, token]."""
    batch, width, rows, tokens = x.shape
    out = gate.new_empty(gate.shape)
    added = gate
    if residual is not None:
        added = dense("triangle_multiplication.residual", residual, x.dtype)
    options = _options("triangle_multiplication.epilogue", x, width)
    launch(
        "triangle_multiplication.epilogue",
        (tiles(rows * tokens, options["BLOCK_ROWS"]), batch),
        *_epilogue_inputs(x, gate, StageWeights(norm_weight, norm_bias, weight)),
        added,
        gate if keep is None else keep,
        out,
        tokens,
        rows * tokens,
        dropout_scale(rate),
        _EPSILON,
        RESIDUAL=residual is not None,
        KEEP=keep is not None,
        **options,
    )
    return out


@custom_operator("triangle_multiplication_epilogue_backward")
def finish_backward(
    grad: Tensor,
    x: Tensor,
    gate: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    keep: Tensor | None,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x and the gate, of scale and offset [2, c], and of the weight."""
    batch, width, rows, tokens = x.shape
    positions = rows * tokens
    grad = dense("triangle_multiplication.gradient", grad, x.dtype)
    dx, dgate = x.new_empty(x.shape), gate.new_empty(gate.shape)
    y, dlinear = _scratch("normalized", gate), _scratch("dlinear", gate)
    options = _options("triangle_multiplication.epilogue_backward", x, width)
    count = tiles(positions, options["BLOCK_ROWS"])
    partials = _partials("norm_planes", x, (1, batch * count, 2, width))
    launch(
        "triangle_multiplication.epilogue_backward",
        (count, batch),
        *_epilogue_inputs(x, gate, StageWeights(norm_weight, norm_bias, weight)),
        gate if keep is None else keep,
        grad,
        dx,
        dgate,
        y,
        dlinear,
        partials,
        tokens,
        positions,
        dropout_scale(rate),
        _EPSILON,
        KEEP=keep is not None,
        **options,
    )
    dnorm, dweight = norm_weight.new_empty((2, width)), weight.new_empty(weight.shape)
    reduce(PartialSums(partials, dnorm.unsqueeze(0)), *outer(dlinear, y, dweight))
    return dx, dgate, dnorm, dweight


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
    del output
    ctx.save_for_backward(*inputs)


def _project_backward(ctx: Any, da: Tensor, db: Tensor, dgate: Tensor) -> tuple[Tensor | None, ...]:
    dz, dnorm, dweight = project_backward(da, db, dgate, *ctx.saved_tensors)
    return dz, None, dnorm[0], dnorm[1], dweight


def _save_for_finish(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    *tensors, residual, keep, ctx.rate = inputs
    ctx.save_for_backward(*tensors, keep)
    ctx.residual = residual is not None


def _finish_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dx, dgate, dnorm, dweight = finish_backward(grad, *ctx.saved_tensors, ctx.rate)
    dresidual = grad if ctx.residual else None
    return dx, dgate, dnorm[0], dnorm[1], dweight, dresidual, None, None


project.register_autograd(_project_backward, setup_context=_save)
finish.register_autograd(_finish_backward, setup_context=_save_for_finish)


def _linear(positions: int, weight: Any) -> int:
    return 2 * positions * math.prod(weight)


@register_flop_formula(torch.ops.foldperf.triangle_multiplication_projection)
def _projection_flops(z: Any, _mask: Any, *weights: Any, **_options: Any) -> int:
    return _linear(math.prod(z[:-1]), StageWeights(*weights).weight)


@register_flop_formula(torch.ops.foldperf.triangle_multiplication_projection_backward)
def _projection_backward_flops(
    _da: Any, _db: Any, _dgate: Any, *shapes: Any, **_options: Any
) -> int:
    return 2 * _projection_flops(*shapes)


@register_flop_formula(torch.ops.foldperf.triangle_multiplication_epilogue)
def _epilogue_flops(
    _x: Any, gate: Any, _scale: Any, _offset: Any, weight: Any, *_arguments: Any, **_options: Any
) -> int:
    return _linear(math.prod(gate[:-1]), weight)


@register_flop_formula(torch.ops.foldperf.triangle_multiplication_epilogue_backward)
def _epilogue_backward_flops(_grad: Any, *shapes: Any, **_options: Any) -> int:
    return 2 * _epilogue_flops(*shapes)


def _epilogue_inputs(x: Tensor, gate: Tensor, weights: StageWeights) -> tuple[Tensor, ...]:
    """Return x and gate, dense, and the weights, the matrix in the dtype of x."""
    return (
        dense("triangle_multiplication.x", x, x.dtype),
        dense("triangle_multiplication.gate", gate, x.dtype),
        weights.norm_weight,
        weights.norm_bias,
        in_dtype("triangle_multiplication.weight", weights.weight, x.dtype),
    )


def _options(kernel: str, tensor: Tensor, width: int) -> dict[str, Any]:
    return launch_options(kernel, tensor) | {"WIDTH": width, "BLOCK_WIDTH": padded_width(width)}


def _scratch(name: str, like: Tensor) -> Tensor:
    return workspace(
        f"triangle_multiplication.{name}", like.shape, dtype=like.dtype, device=like.device
    )


def _partials(name: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return workspace(
        f"triangle_multiplication.{name}", shape, dtype=torch.float32, device=like.device
    )
