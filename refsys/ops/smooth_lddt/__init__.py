"""Smooth-LDDT (Algorithm 27): differentiable agreement of local distances with the label."""

import torch
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_rank, nbytes
from refsys.ops.smooth_lddt import reference, triton

_OPERATOR = Operator(
    "smooth_lddt",
    reference.smooth_lddt,
    flops=lambda *_arguments, **_options: 0,
    minimum_bytes=lambda x, truth, resolved, radius, **_options: (
        nbytes(x, truth, resolved, radius) + x.shape[0] * x.shape[1] * x.element_size()
    ),
    kernels={"triton": Implementation(triton.smooth_lddt, triton.unsupported_reason)},
)


def smooth_lddt(
    x: Tensor,
    truth: Tensor,
    resolved: Tensor,
    radius: Tensor,
    *,
    block: int = 1024,
    backend: str | None = None,
) -> Tensor:
    """Mean over near pairs and thresholds t of sigmoid(t − |δ|), for each sample.

    A pair is near if the label's distance is less than its first atom's radius; δ is the difference
    of the two distances. Only `x` is differentiated.

    Args:
        x: [batch, sample, atom, 3] positions.
        truth: [batch, atom, 3], the label, dtype of `x`.
        resolved: [batch, atom] bool, True for an atom that the label has.
        radius: [batch, atom], distance up to which a pair is near; dtype of `x`.
        block: Atoms whose pairs plain PyTorch holds at once.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, sample] in the dtype of `x`; 0 where no pair is near.

    Raises:
        ArgumentError: a shape, dtype or device does not fit, or `block` is less than 1.
    """
    check_rank("x", x, "batch sample atom 3")
    batch, samples, atoms, _three = x.shape
    check("x", x, (batch, samples, atoms, 3), like=x)
    check("truth", truth, (batch, atoms, 3), like=x, dtype=x.dtype)
    check("resolved", resolved, (batch, atoms), like=x, dtype=torch.bool)
    check("radius", radius, (batch, atoms), like=x, dtype=x.dtype)
    if block < 1:
        raise ArgumentError(f"block={block} is less than 1")
    return _OPERATOR(x, truth, resolved, radius, block=block, backend=backend)
