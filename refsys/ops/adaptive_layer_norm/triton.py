"""Adaptive LayerNorm on Triton kernels, as one custom operator."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.triton_backend import (
    custom_operator,
    dense,
    launch,
    launch_options,
    padded_width,
    tiles,
    unsupported_by_triton,
)

# Wider rows do not fit in a program's registers.
MAXIMUM_WIDTH = 1024
EPSILON = 1e-5


class GatedBlock(NamedTuple):
    """Block that begins with the norm and ends with a gated update and a residual.

    Attributes:
        gate: Logits of the gate, shape of the condition.
        grad: Gradient of the block's result.
        update: Update that the gate multiplies.
    """

    gate: Tensor
    grad: Tensor
    update: Tensor


def unsupported_reason(a: Tensor, *tensors: Tensor, statistics: torch.dtype) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if statistics != torch.float32:
        return f"statistics are taken in float32, not in {statistics}"
    if a.shape[-1] > MAXIMUM_WIDTH:
        return f"rows are wider than {MAXIMUM_WIDTH}"
    return unsupported_by_triton(a, *tensors)


def adaptive_layer_norm(
    a: Tensor, scale: Tensor, shift: Tensor, *, statistics: torch.dtype
) -> Tensor:
    """See `refsys.ops.adaptive_layer_norm.adaptive_layer_norm`."""
    del statistics
    out: Tensor = forward(a, scale, shift)
    return out


def run(a: Tensor, scale: Tensor, shift: Tensor, y: Tensor) -> None:
    """Write the result into `y`; all tensors are dense."""
    options = _options("adaptive_layer_norm.forward", a)
    groups, samples, rows = sizes(a, scale)
    grid = tiles(rows, options["BLOCK_ROWS"]), groups
    launch(
        "adaptive_layer_norm.forward", grid, a, scale, shift, y, rows, samples, EPSILON, **options
    )


def run_backward(
    a: Tensor, scale: Tensor, dy: Tensor, block: GatedBlock | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of a, scale, shift and the gate of the block; all are dense."""
    da, dscale, dshift = (torch.empty_like(tensor) for tensor in (a, scale, scale))
    gate, grad, update = block or (scale, dy, dy)
    dgate = dscale if block is None else torch.empty_like(gate)
    options = _options("adaptive_layer_norm.backward", a)
    groups, samples, rows = sizes(a, scale)
    launch(
        "adaptive_layer_norm.backward",
        (tiles(rows, options["BLOCK_ROWS"]), groups),
        a,
        scale,
        gate,
        dy,
        grad,
        update,
        da,
        dscale,
        dshift,
        dgate,
        rows,
        samples,
        EPSILON,
        BESIDE=block is not None,
        **options,
    )
    return da, dscale, dshift, dgate


def sizes(a: Tensor, condition: Tensor) -> tuple[int, int, int]:
    """Return the number of conditions, of samples that share one, and of rows."""
    batch, samples, rows, _width = a.shape
    return batch * condition.shape[1], samples // condition.shape[1], rows


@custom_operator("adaptive_layer_norm")
def forward(a: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """See `adaptive_layer_norm`."""
    a, scale, shift = _dense(a, scale, shift)
    y = a.new_empty(a.shape)
    run(a, scale, shift, y)
    return y


@custom_operator("adaptive_layer_norm_backward")
def backward(dy: Tensor, a: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, scale and shift."""
    a, scale, dy = _dense(a, scale, dy)
    da, dscale, dshift, _dgate = run_backward(a, scale, dy)
    return da, dscale, dshift


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gradients: tuple[Tensor, Tensor, Tensor] = backward(dy, *ctx.saved_tensors)
    return gradients


forward.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(
    [torch.ops.foldperf.adaptive_layer_norm, torch.ops.foldperf.adaptive_layer_norm_backward]
)
def _flops(*_args: Any, **_options: Any) -> int:
    """Return 0: there is no matrix product."""
    return 0


def _dense(a: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(dense("adaptive_layer_norm.input", tensor, a.dtype) for tensor in (a, *tensors))


def _options(kernel: str, a: Tensor) -> dict[str, Any]:
    """Return a kernel's launch options and the constants that follow from the width."""
    width = a.shape[-1]
    return launch_options(kernel, a) | {"WIDTH": width, "BLOCK_WIDTH": padded_width(width)}
