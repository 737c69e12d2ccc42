"""Residual update with a dropout mask that all positions of one axis share."""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Operator
from refsys.ops.contract import check, nbytes
from refsys.ops.dropout_residual import reference

_OPERATOR = Operator(
    "dropout_residual",
    reference.dropout_residual,
    flops=lambda *_arguments, **_options: 0,
    minimum_bytes=lambda residual, update, keep, **_options: nbytes(
        residual, residual, update, keep
    ),
)


def dropout_residual(
    residual: Tensor,
    update: Tensor,
    keep: Tensor | None,
    *,
    rate: float,
    shared_axis: int,
    backend: str | None = None,
) -> Tensor:
    """Residual + update · keep / (1 − rate), with one mask for all positions of an axis.

    The caller samples the mask, from a key and by global index, so that the result is the same for
    any number of ranks.

    Args:
        residual: [batch, a, b, C].
        update: [batch, a, b, C], dtype of `residual`.
        keep: [batch, b, C] bool if axis a shares the mask, else [batch, a, C]. None adds the full
            update.
        rate: Probability of dropping, in [0, 1).
        shared_axis: Axis that shares the mask: −3 (a) or −2 (b).
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, a, b, C]. Gradients flow to both tensors; that of `update` is masked too.

    Raises:
        ArgumentError: a shape, dtype or device, the rate or the axis does not fit.
    """
    check("update", update, residual.shape, like=residual, dtype=residual.dtype)
    if keep is None:
        return residual + update
    if not 0 <= rate < 1:
        raise ArgumentError(f"rate={rate} is outside [0, 1)")
    if shared_axis not in {-3, -2}:
        raise ArgumentError(f"shared_axis={shared_axis}; expected -3 or -2")
    batch, first, second, channels = residual.shape
    positions = second if shared_axis == -3 else first
    check("keep", keep, (batch, positions, channels), like=residual, dtype=torch.bool)
    return _OPERATOR(residual, update, keep, rate=rate, shared_axis=shared_axis, backend=backend)
