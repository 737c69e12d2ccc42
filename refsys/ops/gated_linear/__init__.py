"""Gate, linear layer, dropout and residual: the last stage of attention."""

from torch import Tensor

from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_dropout, check_rank, nbytes
from refsys.ops.gated_linear import reference, triton


def _flops(
    x: Tensor, _gate: Tensor, weight: Tensor, *_arguments: object, **_options: object
) -> int:
    return 2 * (x.numel() // x.shape[-1]) * weight.numel()


def _bytes(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    residual: Tensor | None,
    keep: Tensor | None,
    **_options: object,
) -> int:
    out = x.numel() // x.shape[-1] * weight.shape[0] * x.element_size()
    return nbytes(x, gate, weight, residual, keep) + out


_OPERATOR = Operator(
    "gated_linear",
    reference.gated_linear,
    flops=_flops,
    minimum_bytes=_bytes,
    kernels={"triton": Implementation(triton.gated_linear, triton.unsupported_reason)},
)


def gated_linear(
    x: Tensor,
    gate: Tensor,
    weight: Tensor,
    residual: Tensor | None = None,
    keep: Tensor | None = None,
    *,
    rate: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Residual + dropout((x · sigmoid(gate)) Wᵀ), with one mask for all rows.

    Args:
        x: [batch, row, token, c].
        gate: [batch, row, token, c] logits of the gate, dtype of `x`; strides are free.
        weight: [o, c].
        residual: [batch, row, token, o], dtype of `x`, strides are free; None adds nothing.
        keep: [batch, token, o] bool, see `refsys.ops.dropout_residual`; needs a residual. None
            drops nothing.
        rate: Probability of dropping, in [0, 1).
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, row, token, o] in the dtype of `x`, with the strides of the residual.

    Raises:
        ArgumentError: a shape, dtype or device, or the rate does not fit.
    """
    check_rank("x", x, "batch row token c")
    check("gate", gate, x.shape, like=x, dtype=x.dtype)
    check_rank("weight", weight, "out c")
    check("weight", weight, (weight.shape[0], x.shape[-1]), like=x)
    check_dropout(residual, keep, rate, (*x.shape[:-1], weight.shape[0]), like=x)
    return _OPERATOR(x, gate, weight, residual, keep, rate=rate, backend=backend)
