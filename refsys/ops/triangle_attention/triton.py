"""Triangle attention on Triton kernels, as custom operators.

The gradients of q, k and v come from one pass over the rows; that of the bias from another, in
which each tile of it is summed over the rows in registers. No sum is atomic, and each has a fixed
order.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.planes.triton import PartialSums, reduce
from refsys.ops.specialization import common_unit, encoded_strides, stride_unit
from refsys.ops.triton_backend import (
    copy,
    custom_operator,
    launch,
    launch_options,
    padded_width,
    tiles,
    unsupported_by_triton,
)
from refsys.ops.workspace import workspace

MAXIMUM_WIDTH = 64

# The pass for the bias is split over the rows into this many programs, several for every
# multiprocessor of the largest devices, as long as each has this many rows.
_PROGRAMS = 1024
_ROWS = 8


def unsupported_reason(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, *, softmax: torch.dtype
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if softmax != torch.float32:
        return f"softmax is taken in float32, not in {softmax}"
    if q.shape[-1] > MAXIMUM_WIDTH:
        return f"heads are wider than {MAXIMUM_WIDTH}"
    return unsupported_by_triton(q, k, v, bias, mask)


def triangle_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, *, softmax: torch.dtype
) -> Tensor:
    """See `refsys.ops.triangle_attention.triangle_attention`."""
    del softmax
    out: Tensor = attend(q, k, v, bias, mask)[0]
    return out


class Inputs(NamedTuple):
    """Inputs of attention: [batch, row, token, head, d], a bias and a mask; strides are free.

    Attributes:
        q: Queries.
        k: Keys.
        v: Values.
        bias: [batch, head, query, key].
        mask: [batch, row, key] bool.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor
    mask: Tensor

    def with_strides(self) -> tuple[Any, ...]:
        """Return each tensor and its strides; those of bias and mask are encoded."""
        qkv = (part for t in (self.q, self.k, self.v) for part in (t, t.stride()))
        return *qkv, self.bias, encoded_strides(self.bias), self.mask, encoded_strides(self.mask)


def run(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return the output, dense, and the softmax statistics of each query, in float32.

    The statistics are [1, batch, row, head, query], the shift of the logits; for inputs in float32
    they are [2, ...], shift and factor.
    """
    q, k = inputs.q, inputs.k
    batch, rows, queries, heads, _width = q.shape
    out = q.new_empty(q.shape)
    statistics = 2 if q.dtype == torch.float32 else 1
    softmax = q.new_empty((statistics, batch, rows, heads, queries), dtype=torch.float32)
    options = _options("triangle_attention.forward", q, k, inputs)
    launch(
        "triangle_attention.forward",
        (tiles(queries, options["BLOCK_Q"]) * heads * rows * batch,),
        *inputs.with_strides(),
        out,
        out.stride(),
        softmax[0],
        softmax[-1],
        *_sizes(q, k),
        _scale(q),
        **options,
    )
    return out, softmax


def sum_out_grad(out: Tensor, grad: Tensor, delta: Tensor) -> None:
    """Write Σ out · grad over the head width into `delta`, [batch, row, head, query]."""
    batch, rows, queries, heads, _width = out.shape
    options = _options("triangle_attention.delta", out, out)
    launch(
        "triangle_attention.delta",
        (tiles(queries, options["BLOCK_Q"]) * heads * rows * batch,),
        out,
        out.stride(),
        grad,
        grad.stride(),
        delta,
        rows,
        queries,
        heads,
        **options,
    )


def run_backward_tokens(
    grad: Tensor,
    inputs: Inputs,
    softmax: Tensor,
    delta: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write the gradients of q, k and v into `gradients`, whose strides are free."""
    q, k, bias = inputs.q, inputs.k, inputs.bias
    bias_BHKQ = bias.transpose(-1, -2)
    transposed_bias = workspace(
        "triangle_attention.bias", bias_BHKQ.shape, dtype=bias.dtype, device=q.device
    )
    copy(transposed_bias, bias_BHKQ)
    # Partial sums of a float32 gradient are stored in the gradient itself.
    sums = gradients[0]
    if sums.dtype != torch.float32:
        sums = workspace("triangle_attention.sums", q.shape, dtype=torch.float32, device=q.device)
    _batch, rows, _queries, heads, _width = q.shape
    inputs = inputs._replace(bias=transposed_bias)
    options = _options("triangle_attention.backward_tokens", q, k, inputs)
    launch(
        "triangle_attention.backward_tokens",
        (heads * rows * q.shape[0],),
        *inputs.with_strides(),
        grad,
        grad.stride(),
        softmax[0],
        softmax[-1],
        delta,
        sums,
        sums.stride(),
        *(part for tensor in gradients for part in (tensor, tensor.stride())),
        *_sizes(q, k),
        _scale(q),
        **options,
    )
    if k.shape[2] == 1:
        _zero_for_single_key(*gradients[:2])


def run_backward_bias(
    grad: Tensor, inputs: Inputs, softmax: Tensor, delta: Tensor
) -> tuple[Tensor, list[PartialSums]]:
    """Return the gradient of the bias, dense, and the reductions that it still needs."""
    q, k, bias = inputs.q, inputs.k, inputs.bias
    batch, heads, queries, keys = bias.shape
    gradient = bias.new_empty(bias.shape)
    options = _options("triangle_attention.backward_bias", q, k, inputs)
    programs = tiles(queries, options["BLOCK_Q"]) * tiles(keys, options["BLOCK_K"]) * heads * batch
    chunks = _chunks(q, k, programs)
    partials, reductions = gradient, []
    if chunks > 1:
        shape = batch, chunks, heads, queries, keys
        partials = workspace(
            "triangle_attention.planes", shape, dtype=torch.float32, device=q.device
        )
        reductions = [PartialSums(partials, gradient)]
    launch(
        "triangle_attention.backward_bias",
        (programs * chunks,),
        *inputs.with_strides(),
        grad,
        grad.stride(),
        softmax[0],
        softmax[-1],
        delta,
        partials,
        *_sizes(q, k),
        chunks,
        _scale(q),
        **options,
    )
    if keys == 1:
        _zero_for_single_key(partials)
    return gradient, reductions


@custom_operator("triangle_attention")
def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """See `run`."""
    return run(Inputs(q, k, v, bias, mask))


@custom_operator("triangle_attention_backward_tokens")
def backward_tokens(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    mask: Tensor,
    out: Tensor,
    softmax: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and v, dense; and Σ out · grad, [batch, row, head, query]."""
    gradients = q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)
    delta = torch.empty_like(softmax[0])
    sum_out_grad(out, grad, delta)
    run_backward_tokens(grad, Inputs(q, k, v, bias, mask), softmax, delta, gradients)
    return *gradients, delta


@custom_operator("triangle_attention_backward_bias")
def backward_bias(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    mask: Tensor,
    softmax: Tensor,
    delta: Tensor,
) -> Tensor:
    """Return the gradient of the bias, dense; `delta` is a result of `backward_tokens`."""
    inputs = Inputs(q, k, v, bias, mask)
    gradient, reductions = run_backward_bias(grad, inputs, softmax, delta)
    reduce(*reductions)
    return gradient


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, grad: Tensor | None, *_unused: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    q, k, v, bias, mask, out, softmax = ctx.saved_tensors
    dq, dk, dv, delta = backward_tokens(grad, q, k, v, bias, mask, out, softmax)
    if not Inputs(*ctx.needs_input_grad).bias:
        return dq, dk, dv, None, None
    return dq, dk, dv, backward_bias(grad, q, k, v, bias, mask, softmax, delta), None


attend.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.foldperf.triangle_attention)
def _flops(q: Any, k: Any, *_args: Any, **_options: Any) -> int:
    return 4 * math.prod(q) * int(k[2])


@register_flop_formula(torch.ops.foldperf.triangle_attention_backward_tokens)
def _backward_flops(_grad: Any, q: Any, k: Any, *_args: Any, **_options: Any) -> int:
    return 8 * math.prod(q) * int(k[2])


@register_flop_formula(torch.ops.foldperf.triangle_attention_backward_bias)
def _bias_flops(*_args: Any, **_options: Any) -> int:
    """Return 0: it repeats products of the other pass."""
    return 0


def _options(kernel: str, q: Tensor, k: Tensor, inputs: Inputs | None = None) -> dict[str, Any]:
    """Return a kernel's launch options and the constants that follow from the shapes.

    Args:
        kernel: Its name.
        q: [batch, row, query, head, d].
        k: [batch, row, key, head, d].
        inputs: Inputs of the kernel; None if it reads no bias and no mask.
    """
    options = launch_options(kernel, q)
    queries, keys, width = q.shape[2], k.shape[2], q.shape[-1]
    # A window of atoms has fewer queries than a tile.
    options["BLOCK_Q"] = min(options["BLOCK_Q"], padded_width(queries))
    options |= {"WIDTH": width, "BLOCK_WIDTH": padded_width(width)}
    if inputs is None:
        return options
    return options | {
        "EVEN": queries % options["BLOCK_Q"] == 0 and keys % options["BLOCK_K"] == 0,
        "UNIT": common_unit((queries, keys, *inputs.mask.stride()[:-1])),
        "BIAS_UNIT": stride_unit(inputs.bias),
    }


def _zero_for_single_key(*gradients: Tensor) -> None:
    """Zero gradients of logits: softmax of a single key is 1, and only rounding errors remain."""
    for gradient in gradients:
        gradient.zero_()


def _sizes(q: Tensor, k: Tensor) -> tuple[int, int, int, int]:
    """Return the numbers of rows, queries, keys and heads."""
    _batch, rows, queries, heads, _width = q.shape
    return rows, queries, k.shape[2], heads


def _scale(q: Tensor) -> float:
    return float(q.shape[-1] ** -0.5)


def _chunks(q: Tensor, k: Tensor, programs: int) -> int:
    """Return the number of parts of the sum over rows; they take no more elements than q."""
    rows, width, keys = q.shape[1], q.shape[-1], k.shape[2]
    return max(1, min(tiles(_PROGRAMS, programs), tiles(rows, _ROWS), rows * width // keys))
