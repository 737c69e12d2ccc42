"""Pair-weighted averaging (the core of Algorithm 10): MSA rows averaged with pair weights."""

import torch
from torch import Tensor

from refsys.ops.backend import Operator
from refsys.ops.contract import check, check_rank, nbytes
from refsys.ops.pair_weighted_averaging import reference


def _flops(v: Tensor, logits: Tensor, *_arguments: object, **_options: object) -> int:
    return 2 * v.numel() * logits.shape[1]


def _minimum_bytes(v: Tensor, logits: Tensor, mask: Tensor, **_options: object) -> int:
    output = v.numel() // v.shape[2] * logits.shape[1] * v.element_size()
    return nbytes(v, logits, mask) + output


_OPERATOR = Operator(
    "pair_weighted_averaging",
    reference.pair_weighted_averaging,
    flops=_flops,
    minimum_bytes=_minimum_bytes,
)


def pair_weighted_averaging(
    v: Tensor, logits: Tensor, mask: Tensor, *, softmax: torch.dtype, backend: str | None = None
) -> Tensor:
    """Σⱼ softmaxⱼ(logits[i, j], over the tokens that `mask` keeps) v[s, j], for each head.

    Args:
        v: [batch, MSA row, token j, head, d].
        logits: [batch, token i, token j, head]; i may be a slab of the tokens.
        mask: [batch, token j] bool. The result of an example without tokens is zero.
        softmax: Dtype of the weights' softmax.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, MSA row, token i, head, d] in the dtype of `v`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("v", v, "batch alignment_row token head d")
    check_rank("logits", logits, "batch token token head")
    batch, _rows, tokens, heads, _width = v.shape
    check("logits", logits, (batch, logits.shape[1], tokens, heads), like=v, dtype=v.dtype)
    check("mask", mask, (batch, tokens), like=v, dtype=torch.bool)
    return _OPERATOR(v, logits, mask, softmax=softmax, backend=backend)
