"""Adaptive LayerNorm on Triton's kernels, as an operator that torch sees as one."""

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
    why_not_triton,
)

# Wider rows do not fit in a program's registers.
MAXIMUM_WIDTH = 1024
EPSILON = 1e-5


class Beside(NamedTuple):
    """A block that begins with the norm and ends with a gated update and a residual.

    Attributes:
        gate: The gate's logits, shape of the condition.
        grad: The gradient of the block's result.
        update: What the gate multiplied.
    """

    gate: Tensor
    grad: Tensor
    update: Tensor


def why_not(a: Tensor, *tensors: Tensor, statistics: torch.dtype) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if statistics != torch.float32:
        return f"statistics are taken in float32, not in {statistics}"
    if a.shape[-1] > MAXIMUM_WIDTH:
        return f"rows are wider than {MAXIMUM_WIDTH}"
    return why_not_triton(a, *tensors)


def adaptive_layer_norm(
    a: Tensor, scale: Tensor, shift: Tensor, *, statistics: torch.dtype
) -> Tensor:
    """See `refsys.ops.adaptive_layer_norm.adaptive_layer_norm`."""
    del statistics
    out: Tensor = forward(a, scale, shift)
    return out


def run(a: Tensor, scale: Tensor, shift: Tensor, y: Tensor) -> None:
    """Into `y`; all dense."""
    options = _options("adaptive_layer_norm.forward", a)
    groups, samples, rows = sizes(a, scale)
    grid = tiles(rows, options["BLOCK_ROWS"]), groups
    launch(
        "adaptive_layer_norm.forward", grid, a, scale, shift, y, rows, samples, EPSILON, **options
    )


def run_backward(
    a: Tensor, scale: Tensor, dy: Tensor, beside: Beside | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a, scale, shift and, of what is `beside`, the gate; all dense."""
    da, dscale, dshift = (torch.empty_like(each) for each in (a, scale, scale))
    gate, grad, update = beside or (scale, dy, dy)
    dgate = dscale if beside is None else torch.empty_like(gate)
    options = _options("adaptive_layer_norm.backward", a)
    groups, samples, rows = sizes(a, scale)
    launch(
        "adaptive_layer_norm.backward",
        (tiles(rows, options["BLOCK_ROWS"]), groups),
        *(a, scale, gate, dy, grad, update, da, dscale, dshift, dgate),
        *(rows, samples, EPSILON),
        BESIDE=beside is not None,
        **options,
    )
    return da, dscale, dshift, dgate


def sizes(a: Tensor, condition: Tensor) -> tuple[int, int, int]:
    """How many conditions there are, samples that share each, and rows of both."""
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
    """Gradients of a, scale and shift."""
    a, scale, dy = _dense(a, scale, dy)
    return run_backward(a, scale, dy)[:3]


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    del output
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = backward(dy, *ctx.saved_tensors)
    return found


forward.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(
    [torch.ops.foldperf.adaptive_layer_norm, torch.ops.foldperf.adaptive_layer_norm_backward]
)
def _flops(*_args: Any, **_options: Any) -> int:
    """No matrix products."""
    return 0


def _dense(a: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(dense("adaptive_layer_norm.input", each, a.dtype) for each in (a, *tensors))


def _options(kernel: str, a: Tensor) -> dict[str, Any]:
    """A kernel's launch options and the constants that follow from the width."""
    width = a.shape[-1]
    return launch_options(kernel, a) | {"WIDTH": width, "BLOCK_WIDTH": padded_width(width)}
