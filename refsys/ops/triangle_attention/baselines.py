"""Other implementations of triangle attention: torch's own, and packages that may be installed.

Never a default and never a dependency. Some sum the gradient of the bias with atomic additions, so
that two runs differ in their last bits. None of them zeroes a row without keys.

Shape suffixes: B batch, R row, Q query, K key, H head, D head width.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from refsys.ops.triton_backend import padded_width

_HALF = (torch.float16, torch.bfloat16)


def sdpa(
    q_BRQHD: Tensor,
    k_BRKHD: Tensor,
    v_BRKHD: Tensor,
    bias_BHQK: Tensor,
    mask_BRK: Tensor,
    *,
    softmax: torch.dtype,
) -> Tensor:
    """Run ``torch.nn.functional.scaled_dot_product_attention``.

    It takes one bias for each row: rows × heads × queries × keys numbers, and as many in backward.
    """
    del softmax
    queries, keys, values = (t.transpose(2, 3) for t in (q_BRQHD, k_BRKHD, v_BRKHD))
    lowest = torch.finfo(q_BRQHD.dtype).min
    added_BRHQK = bias_BHQK.unsqueeze(1).masked_fill(~mask_BRK[:, :, None, None, :], lowest)
    # Flattened: the fused implementations take one batch axis.
    q, k, v, added = (t.flatten(0, 1) for t in (queries, keys, values, added_BRHQK))
    out = F.scaled_dot_product_attention(q, k, v, added).unflatten(0, q_BRQHD.shape[:2])
    return _with_keys(out.transpose(2, 3), mask_BRK)


def unsupported_by_sdpa(*tensors: Tensor, softmax: torch.dtype) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if softmax != torch.float32 and softmax != tensors[0].dtype:
        return f"softmax is taken in float32 or the tensors' dtype, not in {softmax}"
    return None


def cuequivariance(
    q_BRQHD: Tensor,
    k_BRKHD: Tensor,
    v_BRKHD: Tensor,
    bias_BHQK: Tensor,
    mask_BRK: Tensor,
    *,
    softmax: torch.dtype,
) -> Tensor:
    """Run ``cuequivariance_torch.triangle_attention``."""
    del softmax
    attend = import_module("cuequivariance_torch").triangle_attention
    queries, keys, values = (t.transpose(2, 3) for t in (q_BRQHD, k_BRKHD, v_BRKHD))
    out = attend(queries, keys, values, bias_BHQK.unsqueeze(1), mask_BRK[:, :, None, None, :])
    return _with_keys(out.transpose(2, 3), mask_BRK)


def deepspeed(
    q_BRQHD: Tensor,
    k_BRKHD: Tensor,
    v_BRKHD: Tensor,
    bias_BHQK: Tensor,
    mask_BRK: Tensor,
    *,
    softmax: torch.dtype,
) -> Tensor:
    """Run ``deepspeed.ops.deepspeed4science.DS4Sci_EvoformerAttention``."""
    del softmax
    attend = import_module("deepspeed.ops.deepspeed4science").DS4Sci_EvoformerAttention
    lowest = torch.finfo(q_BRQHD.dtype).min
    added_mask = torch.zeros_like(mask_BRK, dtype=q_BRQHD.dtype).masked_fill(~mask_BRK, lowest)
    biases = [added_mask[:, :, None, None, :], bias_BHQK.unsqueeze(1)]
    return _with_keys(attend(q_BRQHD, k_BRKHD, v_BRKHD, biases), mask_BRK)


def trifast(
    q_BRQHD: Tensor,
    k_BRKHD: Tensor,
    v_BRKHD: Tensor,
    bias_BHQK: Tensor,
    mask_BRK: Tensor,
    *,
    softmax: torch.dtype,
) -> Tensor:
    """Run ``trifast.triangle_attention``, whose mask marks the keys to omit."""
    del softmax
    attend = import_module("trifast").triangle_attention
    queries, keys, values = (t.movedim(3, 1) for t in (q_BRQHD, k_BRKHD, v_BRKHD))
    out = attend(queries, keys, values, bias_BHQK, ~mask_BRK)
    return _with_keys(out.movedim(1, 3), mask_BRK)


def turbopairformer(
    q_BRQHD: Tensor,
    k_BRKHD: Tensor,
    v_BRKHD: Tensor,
    bias_BHQK: Tensor,
    mask_BRK: Tensor,
    *,
    softmax: torch.dtype,
) -> Tensor:
    """Run ``turbopairformer.turbo_attention``, whose mask is added to the logits."""
    del softmax
    attend = import_module("turbopairformer").turbo_attention
    queries, keys, values = (t.transpose(2, 3) for t in (q_BRQHD, k_BRKHD, v_BRKHD))
    # Finite, so that a row without keys has a mean, and no NaN gradient.
    added_mask = torch.zeros_like(mask_BRK, dtype=torch.float32).masked_fill(~mask_BRK, -1e9)
    out = attend(
        queries,
        keys,
        values,
        res_mask=added_mask[:, :, None, None, :],
        pair_bias=bias_BHQK.unsqueeze(1),
    )
    return _with_keys(out, mask_BRK)


def flex(
    q_BRQHD: Tensor,
    k_BRKHD: Tensor,
    v_BRKHD: Tensor,
    bias_BHQK: Tensor,
    mask_BRK: Tensor,
    *,
    softmax: torch.dtype,
) -> Tensor:
    """Run ``torch.nn.attention.flex_attention``, compiled."""
    del softmax
    rows = q_BRQHD.shape[1]

    def score(score: Tensor, line: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        biased = score + bias_BHQK[line // rows, head, query, key]
        return torch.where(mask_BRK[line // rows, line % rows, key], biased, -float("inf"))

    flat = (t.transpose(2, 3).flatten(0, 1) for t in (q_BRQHD, k_BRKHD, v_BRKHD))
    out = _flex()(*flat, score_mod=score).unflatten(0, q_BRQHD.shape[:2])
    return _with_keys(out.transpose(2, 3), mask_BRK)


@functools.cache
def _flex() -> Callable[..., Any]:
    return torch.compile(import_module("torch.nn.attention.flex_attention").flex_attention)


def unsupported_by_package(
    package: str, dtypes: tuple[torch.dtype, ...], *, square: bool = False
) -> Callable[..., str | None]:
    """Return a function that says why a package's kernels cannot serve a call, or None.

    Args:
        package: Name of the package.
        dtypes: Supported dtypes.
        square: Whether the numbers of queries and keys must be equal.
    """

    def unsupported_reason(
        q: Tensor, k: Tensor, *tensors: Tensor, softmax: torch.dtype
    ) -> str | None:
        del tensors
        if find_spec(package) is None:
            return f"{package} is not installed"
        if not q.is_cuda:
            return f"it does not run on a {q.device.type}"
        if softmax != torch.float32:
            return f"softmax is taken in float32, not in {softmax}"
        if q.dtype not in dtypes:
            return f"{q.dtype} has no kernel"
        if square and q.shape[2] != k.shape[2]:
            return "there are not as many queries as keys"
        return None

    return unsupported_reason


unsupported_by_cuequivariance = unsupported_by_package("cuequivariance_torch", _HALF, square=True)
unsupported_by_deepspeed = unsupported_by_package("deepspeed", _HALF, square=True)
unsupported_by_flex = unsupported_by_package("triton", (*_HALF, torch.float32))
unsupported_by_turbopairformer = unsupported_by_package(
    "turbopairformer", (torch.bfloat16,), square=True
)
_trifast_reason = unsupported_by_package("trifast", (*_HALF, torch.float32), square=True)


def unsupported_by_trifast(
    q: Tensor, k: Tensor, *tensors: Tensor, softmax: torch.dtype
) -> str | None:
    """See `refsys.ops.backend.Implementation`."""
    if reason := _trifast_reason(q, k, *tensors, softmax=softmax):
        return reason
    if q.shape[1] != q.shape[2]:
        return "there are not as many rows as tokens"
    if q.shape[-1] != padded_width(q.shape[-1]):
        return "heads are not as wide as a power of two from 16 on"
    return None


def _with_keys(out_BRQHD: Tensor, mask_BRK: Tensor) -> Tensor:
    """Return the output with zeros for rows without keys, where baselines give a mean or NaN."""
    has_keys_BR111 = mask_BRK.any(dim=-1)[:, :, None, None, None]
    return torch.where(has_keys_BR111, out_BRQHD, 0.0)
