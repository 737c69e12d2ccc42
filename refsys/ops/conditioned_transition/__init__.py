"""Conditioned transition (Algorithm 25): adaptive LayerNorm, SwiGLU, linear, gate and residual."""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.adaptive_layer_norm import check_conditions
from refsys.ops.adaptive_layer_norm.triton import unsupported_reason
from refsys.ops.backend import Implementation, Operator
from refsys.ops.conditioned_transition import reference, triton
from refsys.ops.contract import check, nbytes


def _flops(
    a: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    **_options: object,
) -> int:
    return 2 * (a.numel() // a.shape[-1]) * (weight_in.numel() + weight_out.numel())


_OPERATOR = Operator(
    "conditioned_transition",
    reference.conditioned_transition,
    flops=_flops,
    minimum_bytes=lambda a, *tensors, **_options: nbytes(a, *tensors, a),
    kernels={"triton": Implementation(triton.conditioned_transition, unsupported_reason)},
)


def conditioned_transition(
    a: Tensor,
    scale: Tensor,
    shift: Tensor,
    gate: Tensor,
    weight_in: Tensor,
    weight_out: Tensor,
    *,
    statistics: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """A + sigmoid(gate) · W_out(swish(u) · v), with u and v the halves of W_in y.

    y = sigmoid(scale) · LayerNorm(a) + shift.

    Args:
        a: [batch, sample, row, c].
        scale: [batch, 1 or sample, row, c] logits, dtype of `a`.
        shift: Shape and dtype of `scale`.
        gate: Logits of the gate, shape and dtype of `scale`.
        weight_in: [2h, c]: the projections of u and of v.
        weight_out: [c, h].
        statistics: Dtype inside LayerNorm.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, sample, row, c] in the dtype of `a`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_conditions(a, scale=scale, shift=shift, gate=gate)
    if weight_in.dim() != 2 or weight_in.shape[0] % 2:
        raise ArgumentError(f"weight_in has shape {tuple(weight_in.shape)}; expected [2h, c]")
    check("weight_in", weight_in, (weight_in.shape[0], a.shape[-1]), like=a)
    check("weight_out", weight_out, (a.shape[-1], weight_in.shape[0] // 2), like=a)
    return _OPERATOR(
        a, scale, shift, gate, weight_in, weight_out, statistics=statistics, backend=backend
    )
