"""LayerNorm over the last axis, with statistics in a separate dtype."""

import torch
from torch import Tensor

from refsys.ops.backend import Operator
from refsys.ops.contract import check, nbytes
from refsys.ops.layer_norm import reference

_OPERATOR = Operator(
    "layer_norm",
    reference.layer_norm,
    flops=lambda *_arguments, **_options: 0,
    minimum_bytes=lambda x, weight, bias, **_options: nbytes(x, x, weight, bias),
)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    statistics: torch.dtype,
    epsilon: float = 1e-5,
    backend: str | None = None,
) -> Tensor:
    """(x − mean) / sqrt(variance + epsilon) · weight + bias, over the last axis.

    Args:
        x: [..., c], any floating-point dtype.
        weight: [c], in the dtype of the master weights; None scales by one.
        bias: [c], dtype of `weight`; None adds nothing.
        statistics: Dtype of mean, variance and the intermediates.
        epsilon: Added to the variance.
        backend: See `refsys.ops.backend`.

    Returns:
        [..., c] in the dtype of `x`.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    if weight is not None:
        check("weight", weight, x.shape[-1:], like=x)
    if bias is not None:
        check("bias", bias, x.shape[-1:], like=x)
    return _OPERATOR(x, weight, bias, statistics=statistics, epsilon=epsilon, backend=backend)
