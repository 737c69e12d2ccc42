"""LayerNorm and linear layers on Triton kernels, as one custom operator.

Only the input is saved for backward. `project` and `project_backward` also serve the fused
operators that begin with a projection.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.backend import flat_tensors
from refsys.ops.layer_norm_linear.reference import (
    AttentionProjectionWeights,
    LinearWeights,
    PairBiasWeights,
)
from refsys.ops.planes.triton import PartialSums, outer, reduce
from refsys.ops.specialization import common_unit
from refsys.ops.triton_backend import (
    WIDE,
    custom_operator,
    dense,
    dense_channels,
    launch,
    launch_options,
    padded_width,
    tiles,
    unsupported_by_triton,
)
from refsys.ops.weight_copies import in_dtype
from refsys.ops.workspace import workspace

MAXIMUM_HEADS = 64
_EPSILON = 1e-5


class Weights(NamedTuple):
    """Weights of a LayerNorm and of the linear layers that read it.

    Attributes:
        norm_weight: [c], or None.
        norm_bias: [c], or None.
        weight: [o, c], or None.
        bias: [b] of the first b output channels, or None.
        weight_heads: [head, c], or None.
    """

    norm_weight: Tensor | None
    norm_bias: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    weight_heads: Tensor | None = None


class Gradients(NamedTuple):
    """Gradients of x and of the weights; `norm` is [2, c], scale and offset."""

    x: Tensor
    norm: Tensor
    weight: Tensor
    bias: Tensor
    heads: Tensor


def unsupported_reason(
    x: Tensor, weights: tuple[Tensor | None, ...], *, statistics: torch.dtype
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if statistics != torch.float32:
        return f"statistics are taken in float32, not in {statistics}"
    return unsupported_by_triton(x, *flat_tensors(weights))


def unsupported_reason_heads(
    x: Tensor, weights: PairBiasWeights | AttentionProjectionWeights, *, statistics: torch.dtype
) -> str | None:
    """See `refsys.ops.backend.Implementation`: for weights with a bias of each head."""
    if x.shape[-1] > WIDE:
        return f"positions are wider than {WIDE}"
    if weights.weight_heads.shape[0] > MAXIMUM_HEADS:
        return f"there are more than {MAXIMUM_HEADS} heads"
    return unsupported_reason(x, weights, statistics=statistics)


def layer_norm_linear(x: Tensor, weights: LinearWeights, *, statistics: torch.dtype) -> Tensor:
    """See `refsys.ops.layer_norm_linear.layer_norm_linear`."""
    del statistics
    # Rows and tokens may have strides of their own; other shapes become one long row.
    x_BRNC = x if x.dim() == 4 else x.reshape(1, 1, -1, x.shape[-1])
    out: Tensor = forward(x_BRNC, *Weights(*weights))[0]
    return out.view(*x.shape[:-1], -1)


def pair_bias(z: Tensor, weights: PairBiasWeights, *, statistics: torch.dtype) -> Tensor:
    """See `refsys.ops.layer_norm_linear.pair_bias`."""
    del statistics
    heads: Tensor = forward(z, *Weights(**weights._asdict()))[1]
    return heads


def attention_projection(
    z: Tensor, weights: AttentionProjectionWeights, *, statistics: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `refsys.ops.layer_norm_linear.attention_projection`."""
    del statistics
    out, heads = forward(z, *Weights(**weights._asdict()))
    return out, heads


def project(x: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Apply the layers to [batch, row, token, c]; the result of an absent layer is empty.

    Returns:
        [batch, row, token, o] and [batch, head, row, token].
    """
    x = dense_channels("layer_norm_linear.x", x)
    batch, rows, tokens, width = x.shape
    outs, heads = _count(weights.weight), _count(weights.weight_heads)
    out = x.new_empty((batch, rows, tokens, outs) if outs else (0,))
    head_bias = x.new_empty((batch, heads, rows, tokens) if heads else (0,))
    arguments = _kernel_arguments(x, weights)
    sizes = tokens, rows * tokens, _EPSILON
    flags = _flags(weights) | {"BIAS": _count(weights.bias), "OUT": outs}
    if width <= WIDE:
        options = launch_options("layer_norm_linear.forward", x) | flags
        launch(
            "layer_norm_linear.forward",
            (tiles(rows * tokens, options["BLOCK_ROWS"]), batch),
            x,
            x.stride(),
            *arguments,
            out,
            head_bias,
            *sizes,
            **_narrow(width, heads, rows * tokens),
            **options,
        )
    else:
        options = launch_options("layer_norm_linear.forward_wide", x) | flags
        grid = tiles(rows * tokens, options["BLOCK_ROWS"]), batch
        launch(
            "layer_norm_linear.forward_wide",
            (*grid, tiles(outs, options["BLOCK_OUT"])),
            x,
            x.stride(),
            *arguments[:-1],
            out,
            *sizes,
            WIDTH=width,
            **options,
        )
    return out, head_bias


def project_backward(
    d: Tensor, dheads: Tensor, residual_grad: Tensor | None, x: Tensor, weights: Weights
) -> tuple[Gradients, list[PartialSums]]:
    """Return the gradients, and the reductions that all but that of x still need.

    Args:
        d: Gradient of the first result of `project`, dense; empty where that was.
        dheads: Gradient of the second result, likewise.
        residual_grad: [batch, row, token, c], added to the gradient of x; None adds nothing.
        x: Argument of `project`.
        weights: Argument of `project`.
    """
    x = dense_channels("layer_norm_linear.x", x)
    batch, rows, tokens, width = x.shape
    norm = flat_tensors(weights.norm_weight, weights.norm_bias)
    gradients = Gradients(
        torch.empty_like(x),
        x.new_empty((2, width), dtype=norm[0].dtype if norm else x.dtype),
        *(_gradient(x, tensor) for tensor in (weights.weight, weights.bias, weights.weight_heads)),
    )
    scale, offset, matrix, _bias, head_matrix = _kernel_arguments(x, weights)
    added = gradients.x
    if residual_grad is not None:
        added = dense_channels("layer_norm_linear.beside", residual_grad)
    y = gradients.x
    if weights.weight is not None:
        y = workspace("layer_norm_linear.normalized", x.shape, dtype=x.dtype, device=x.device)
    flags = _flags(weights) | {"BESIDE": residual_grad is not None}
    outs, heads = _count(weights.weight), _count(weights.weight_heads)
    narrow = width <= WIDE
    kernel = "layer_norm_linear.backward" if narrow else "layer_norm_linear.backward_wide"
    options = launch_options(kernel, x) | flags
    count = tiles(rows * tokens, options["BLOCK_ROWS"])
    norm_partials = _scratch("norm_planes", x, (1, batch * count, 2, width))
    reductions = [PartialSums(norm_partials, gradients.norm.unsqueeze(0))]
    outputs = gradients.x, gradients.x.stride(), y, norm_partials
    sizes = tokens, rows * tokens, _EPSILON
    if narrow:
        head_partials = norm_partials
        if heads:
            head_partials = _scratch("head_planes", x, (1, batch * count, heads, width))
            reductions.append(PartialSums(head_partials, gradients.heads.unsqueeze(0)))
        launch(
            kernel,
            (count, batch),
            x,
            x.stride(),
            scale,
            offset,
            matrix,
            head_matrix,
            d,
            dheads,
            added,
            added.stride(),
            *outputs,
            head_partials,
            *sizes,
            OUT=outs,
            **_narrow(width, heads, rows * tokens),
            **options,
        )
    else:
        dy = _scratch("towards", x, x.shape)
        _product(d, matrix, dy)
        launch(
            kernel,
            (count, batch),
            x,
            x.stride(),
            scale,
            offset,
            dy,
            added,
            added.stride(),
            *outputs,
            *sizes,
            WIDTH=width,
            **options,
        )
    if weights.weight is not None:
        sums = None if weights.bias is None else gradients.bias
        reductions += outer(d, y, gradients.weight, sums)
    return gradients, reductions


@custom_operator("layer_norm_linear")
def forward(
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    weight_heads: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """See `project`."""
    return project(x, Weights(norm_weight, norm_bias, weight, bias, weight_heads))


@custom_operator("layer_norm_linear_backward")
def backward(
    d: Tensor | None,
    dheads: Tensor | None,
    x: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    weight_heads: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `project_backward`; a missing gradient is one of zero."""
    batch, rows, tokens, _width = x.shape
    weights = Weights(norm_weight, norm_bias, weight, bias, weight_heads)
    shapes = (batch, rows, tokens, _count(weight)), (batch, _count(weight_heads), rows, tokens)
    d, dheads = (
        x.new_zeros(shape) if grad is None else dense("layer_norm_linear.gradient", grad, x.dtype)
        for grad, shape in zip((d, dheads), shapes, strict=True)
    )
    gradients, reductions = project_backward(d, dheads, None, x, weights)
    reduce(*reductions)
    return gradients.x, gradients.norm, gradients.weight, gradients.bias, gradients.heads


def _setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Any) -> None:
    del output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, d: Tensor | None, dheads: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    dx, dnorm, *matrices = backward(d, dheads, *saved)
    gradients = dx, dnorm[0], dnorm[1], *matrices
    return tuple(None if t is None else grad for t, grad in zip(saved, gradients, strict=True))


forward.register_autograd(_backward, setup_context=_setup_context)


def _linear(x: Any, *matrices: Any) -> int:
    return sum(2 * math.prod(x[:-1]) * math.prod(matrix) for matrix in matrices if matrix)


@register_flop_formula(torch.ops.foldperf.layer_norm_linear)
def _flops(
    x: Any, _scale: Any, _offset: Any, weight: Any, _bias: Any, heads: Any, **_options: Any
) -> int:
    return _linear(x, weight, heads)


@register_flop_formula(torch.ops.foldperf.layer_norm_linear_backward)
def _backward_flops(_d: Any, _dheads: Any, x: Any, *weights: Any, **_options: Any) -> int:
    shapes = Weights(*weights)
    return 2 * _linear(x, shapes.weight, shapes.weight_heads)


def _product(d: Tensor, weight: Tensor, out: Tensor) -> None:
    """Σ d[..., o] weight[o, c]."""
    options = launch_options("layer_norm_linear.product", d)
    outs, width = weight.shape
    rows = d.numel() // outs
    grid = tiles(rows, options["BLOCK_ROWS"]), tiles(width, options["BLOCK_WIDTH"])
    even = outs % options["BLOCK_OUT"] == 0 and width % options["BLOCK_WIDTH"] == 0
    sizes = rows, outs, width
    launch("layer_norm_linear.product", grid, d, weight, out, *sizes, EVEN=even, **options)


def _kernel_arguments(x: Tensor, weights: Weights) -> tuple[Tensor, ...]:
    """Return the weights as kernels take them: matrices in the dtype of x, and x for None."""
    matrix, head_matrix = (
        x if tensor is None else in_dtype(f"layer_norm_linear.{name}", tensor, x.dtype)
        for name, tensor in (("weight", weights.weight), ("heads", weights.weight_heads))
    )
    norm_weight, norm_bias, bias = (
        x if tensor is None else tensor
        for tensor in (weights.norm_weight, weights.norm_bias, weights.bias)
    )
    return norm_weight, norm_bias, matrix, bias, head_matrix


def _gradient(x: Tensor, weight: Tensor | None) -> Tensor:
    return x.new_empty((0,)) if weight is None else weight.new_empty(weight.shape)


def _flags(weights: Weights) -> dict[str, Any]:
    return {"SCALE": weights.norm_weight is not None, "SHIFT": weights.norm_bias is not None}


def _narrow(width: int, heads: int, positions: int) -> dict[str, int]:
    """Return the constants of the kernels that hold whole rows.

    The bias of each head is contiguous along positions: only there do vectors run along them.
    """
    return {
        "WIDTH": width,
        "BLOCK_WIDTH": padded_width(width),
        "HEADS": heads,
        "BLOCK_HEADS": padded_width(max(heads, 1)),
        "UNIT": common_unit((positions,)) if heads else 1,
    }


def _count(weight: Tensor | None) -> int:
    return 0 if weight is None else weight.shape[0]


def _scratch(name: str, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return workspace(f"layer_norm_linear.{name}", shape, dtype=torch.float32, device=like.device)
