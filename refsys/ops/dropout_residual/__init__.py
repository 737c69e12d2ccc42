"""Residual update with a dropout mask that is shared along one axis and drawn from a key."""

from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Operator
from refsys.ops.contract import check, nbytes
from refsys.ops.dropout_residual import reference
from refsys.streams import Draw

_OPERATOR = Operator(
    "dropout_residual",
    reference.dropout_residual,
    flops=lambda *_arguments, **_options: 0,
    minimum_bytes=lambda residual, update, **_options: nbytes(residual, residual, update),
)


def dropout_residual(
    residual: Tensor,
    update: Tensor,
    *,
    rate: float,
    draw: Draw | None,
    shared_axis: int,
    start: int,
    backend: str | None = None,
) -> Tensor:
    """Residual + update · keep / (1 − rate), with one mask for all positions of an axis.

    The mask of element (kept position p, channel c) of an example is uniform number
    (start + p) · C + c of the draw, so it does not depend on how the kept axis is cut into slabs.

    Args:
        residual: [batch, a, b, C].
        update: [batch, a, b, C], dtype of `residual`.
        rate: Probability of dropping, in [0, 1).
        draw: What the mask is for; its `example` is a [batch, 1] int64 tensor or one int for all.
            None adds the update as it is.
        shared_axis: The axis that shares the mask: −3 or −2. The other one is kept.
        start: Global index of position 0 of the kept axis.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, a, b, C]. Gradients flow to both tensors; that of `update` is masked alike.

    Raises:
        ArgumentError: a shape, the rate or the axis does not fit.
    """
    check("update", update, residual.shape, like=residual, dtype=residual.dtype)
    if not 0 <= rate < 1:
        raise ArgumentError(f"rate={rate} is outside [0, 1)")
    if shared_axis not in {-3, -2}:
        raise ArgumentError(f"shared_axis={shared_axis}; expected -3 or -2")
    return _OPERATOR(
        residual,
        update,
        rate=rate,
        draw=draw if rate else None,
        shared_axis=shared_axis,
        start=start,
        backend=backend,
    )
