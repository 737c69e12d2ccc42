"""Attention over the rows of a pair tensor with an additive bias that all rows share.

Serves triangle attention (Algorithms 14 and 15) and, with one row, attention with pair bias
(Algorithm 24).
"""

import torch
from torch import Tensor

from refsys.ops.backend import Implementation, Operator
from refsys.ops.contract import check, check_rank, nbytes
from refsys.ops.triangle_attention import baselines, reference, triton


def _flops(q: Tensor, k: Tensor, *_arguments: object, **_options: object) -> int:
    return 4 * q.numel() * k.shape[2]


_OPERATOR = Operator(
    "triangle_attention",
    reference.triangle_attention,
    flops=_flops,
    minimum_bytes=lambda q, k, v, bias, mask, **_options: nbytes(q, k, v, bias, mask, q),
    kernels={"triton": Implementation(triton.triangle_attention, triton.unsupported_reason)},
    baselines={
        "sdpa": Implementation(baselines.sdpa, baselines.unsupported_by_sdpa),
        "flex": Implementation(baselines.flex, baselines.unsupported_by_flex, deterministic=False),
        "cuequivariance": Implementation(
            baselines.cuequivariance, baselines.unsupported_by_cuequivariance, deterministic=False
        ),
        "turbopairformer": Implementation(
            baselines.turbopairformer, baselines.unsupported_by_turbopairformer
        ),
        "trifast": Implementation(baselines.trifast, baselines.unsupported_by_trifast),
        "deepspeed": Implementation(
            baselines.deepspeed, baselines.unsupported_by_deepspeed, deterministic=False
        ),
    },
    scores=lambda q, k, *_arguments, **_options: q.numel() // q.shape[-1] * k.shape[2],
)


def triangle_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    mask: Tensor,
    *,
    softmax: torch.dtype,
    backend: str | None = None,
) -> Tensor:
    """Σₖ softmaxₖ(q·k / √d + bias, over the keys that `mask` keeps) v, for each row and head.

    Args:
        q: [batch, row, query, head, d]. Rows may be a slab of the pair tensor and queries a block:
            neither has to equal the number of keys. Strides are free.
        k: [batch, row, key, head, d], dtype of `q`.
        v: [batch, row, key, head, d], dtype of `q`.
        bias: [batch, head, query, key], shared by all rows, dtype of `q`.
        mask: [batch, row, key] bool; False removes the key. Output and gradients of a row without
            keys are zero.
        softmax: Dtype of logits and probabilities.
        backend: See `refsys.ops.backend`.

    Returns:
        [batch, row, query, head, d] in the dtype of `q`.

    Raises:
        ArgumentError: a shape, dtype or device does not fit.
    """
    check_rank("q", q, "batch row query head d")
    batch, rows, queries, heads, width = q.shape
    check_rank("k", k, "batch row key head d")
    keys = k.shape[2]
    check("k", k, (batch, rows, keys, heads, width), like=q, dtype=q.dtype)
    check("v", v, k.shape, like=q, dtype=q.dtype)
    check("bias", bias, (batch, heads, queries, keys), like=q, dtype=q.dtype)
    check("mask", mask, (batch, rows, keys), like=q, dtype=torch.bool)
    return _OPERATOR(q, k, v, bias, mask, softmax=softmax, backend=backend)
