"""Triangle attention on Triton's kernels, as operators that torch sees as one.

The gradients of q, k and v come of one pass over the rows; that of the bias of another, in which
each tile of it is summed over the rows in registers. No sum is atomic, and each has one order.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.planes.triton import Planes, fold
from refsys.ops.specialization import common_unit, encoded_strides, stride_unit
from refsys.ops.triton_backend import (
    copy,
    custom_operator,
    launch,
    launch_options,
    padded_width,
    tiles,
    why_not_triton,
)
from refsys.ops.workspace import workspace

MAXIMUM_WIDTH = 64

# The pass for the bias is split over the rows until it has so many programs, if each keeps so many
# rows: several programs for every multiprocessor of the largest devices.
_PROGRAMS = 1024
_ROWS = 8


def why_not(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, *, softmax: torch.dtype
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if softmax != torch.float32:
        return f"softmax is taken in float32, not in {softmax}"
    if q.shape[-1] > MAXIMUM_WIDTH:
        return f"heads are wider than {MAXIMUM_WIDTH}"
    return why_not_triton(q, k, v, bias, mask)


def triangle_attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor, *, softmax: torch.dtype
) -> Tensor:
    """See `refsys.ops.triangle_attention.triangle_attention`."""
    del softmax
    out: Tensor = attend(q, k, v, bias, mask)[0]
    return out


class Inputs(NamedTuple):
    """What attention reads: [batch, row, token, head, d], and a bias and a mask; strides are free.

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
        """Return each, and its strides; those of the bias and the mask follow from the length."""
        dense = (part for tensor in self[:3] for part in (tensor, tensor.stride()))
        return *dense, self.bias, encoded_strides(self.bias), self.mask, encoded_strides(self.mask)


def run(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The result, dense; and what softmax takes away from the logits of each query, in float32.

    The latter is [1, batch, row, head, query]; in float32 it is [2, ...], with a factor after it.
    """
    q, k = inputs.q, inputs.k
    batch, rows, queries, heads, _width = q.shape
    out = q.new_empty(q.shape)
    planes = 2 if q.dtype == torch.float32 else 1
    softmax = q.new_empty((planes, batch, rows, heads, queries), dtype=torch.float32)
    options = _options("triangle_attention.forward", q, k, inputs)
    launch(
        "triangle_attention.forward",
        (tiles(queries, options["BLOCK_Q"]) * heads * rows * batch,),
        *inputs.with_strides(),
        *(out, out.stride(), softmax[0], softmax[-1], *_sizes(q, k), _scale(q)),
        **options,
    )
    return out, softmax


def sum_out_grad(out: Tensor, grad: Tensor, delta: Tensor) -> None:
    """Σ out · grad over the head width into `delta`, [batch, row, head, query]."""
    batch, rows, queries, heads, _width = out.shape
    options = _options("triangle_attention.delta", out, out)
    launch(
        "triangle_attention.delta",
        (tiles(queries, options["BLOCK_Q"]) * heads * rows * batch,),
        *(out, out.stride(), grad, grad.stride(), delta, rows, queries, heads),
        **options,
    )


def run_backward_tokens(
    grad: Tensor,
    inputs: Inputs,
    softmax: Tensor,
    delta: Tensor,
    gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Gradients of q, k and v into `gradients`, whose strides are free."""
    q, k, bias = inputs.q, inputs.k, inputs.bias
    bias_BHKQ = bias.transpose(-1, -2)
    turned = workspace(
        "triangle_attention.bias", bias_BHKQ.shape, dtype=bias.dtype, device=q.device
    )
    copy(turned, bias_BHKQ)
    # Sums of a float32 gradient are kept in the gradient itself.
    sums = gradients[0]
    if sums.dtype != torch.float32:
        sums = workspace("triangle_attention.sums", q.shape, dtype=torch.float32, device=q.device)
    _batch, rows, _queries, heads, _width = q.shape
    inputs = inputs._replace(bias=turned)
    options = _options("triangle_attention.backward_tokens", q, k, inputs)
    launch(
        "triangle_attention.backward_tokens",
        (heads * rows * q.shape[0],),
        *inputs.with_strides(),
        *(grad, grad.stride(), softmax[0], softmax[-1], delta, sums, sums.stride()),
        *(part for tensor in gradients for part in (tensor, tensor.stride())),
        *(*_sizes(q, k), _scale(q)),
        **options,
    )
    if k.shape[2] == 1:
        _forget(*gradients[:2])


def run_backward_bias(
    grad: Tensor, inputs: Inputs, softmax: Tensor, delta: Tensor
) -> tuple[Tensor, list[Planes]]:
    """The gradient of the bias, dense, and what is still to be folded of it."""
    q, k, bias = inputs.q, inputs.k, inputs.bias
    batch, heads, queries, keys = bias.shape
    gradient = bias.new_empty(bias.shape)
    options = _options("triangle_attention.backward_bias", q, k, inputs)
    programs = tiles(queries, options["BLOCK_Q"]) * tiles(keys, options["BLOCK_K"]) * heads * batch
    chunks = _chunks(q, k, programs)
    planes, jobs = gradient, []
    if chunks > 1:
        shape = batch, chunks, heads, queries, keys
        planes = workspace("triangle_attention.planes", shape, dtype=torch.float32, device=q.device)
        jobs = [Planes(planes, gradient)]
    launch(
        "triangle_attention.backward_bias",
        (programs * chunks,),
        *inputs.with_strides(),
        *(grad, grad.stride(), softmax[0], softmax[-1], delta, planes),
        *(*_sizes(q, k), chunks, _scale(q)),
        **options,
    )
    if keys == 1:
        _forget(planes)
    return gradient, jobs


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
    """Gradients of q, k and v, dense; and Σ out · grad, [batch, row, head, query]."""
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
    """The gradient of the bias, dense; `delta` is of `backward_tokens`."""
    gradient, jobs = run_backward_bias(grad, Inputs(q, k, v, bias, mask), softmax, delta)
    fold(*jobs)
    return gradient


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs, *output)


def _backward(ctx: Any, grad: Tensor | None, *_unused: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    q, k, v, bias, mask, out, softmax = ctx.saved_tensors
    dq, dk, dv, delta = backward_tokens(grad, q, k, v, bias, mask, out, softmax)
    if not ctx.needs_input_grad[3]:
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
    """None of its own: it repeats products of the other pass."""
    return 0


def _options(kernel: str, q: Tensor, k: Tensor, inputs: Inputs | None = None) -> dict[str, Any]:
    """Return a kernel's launch options and the constants that follow from the shapes.

    Args:
        kernel: Its name.
        q: [batch, row, query, head, d].
        k: [batch, row, key, head, d].
        inputs: What the kernel reads beside a result; None if it reads no bias and no mask.
    """
    options = launch_options(kernel, q)
    queries, keys, width = q.shape[2], k.shape[2], q.shape[4]
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


def _forget(*gradients: Tensor) -> None:
    """Softmax of a single key is one, whatever its logit: no rounding may pass for a gradient."""
    for gradient in gradients:
        gradient.zero_()


def _sizes(q: Tensor, k: Tensor) -> tuple[int, int, int, int]:
    """Rows, queries, keys, heads."""
    return q.shape[1], q.shape[2], k.shape[2], q.shape[3]


def _scale(q: Tensor) -> float:
    return float(q.shape[-1] ** -0.5)


def _chunks(q: Tensor, k: Tensor, programs: int) -> int:
    """How many parts the rows are summed in. Their planes take no more elements than q."""
    rows, width, keys = q.shape[1], q.shape[4], k.shape[2]
    return max(1, min(tiles(_PROGRAMS, programs), tiles(rows, _ROWS), rows * width // keys))
