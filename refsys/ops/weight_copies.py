"""Copies of master weights in the dtype that kernels compute in.

A model creates the copies of all its weights in one launch, before its forward pass; for a weight
without a copy, or one that has changed since, a kernel creates its own. A weight is changed in
place, as optimizers do: a change that bypasses autograd's version counter
(``weight.data.copy_``) takes effect in the next forward pass of the model, not in an operator that
is called alone.
"""

import weakref
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from refsys.ops.backend import requested_for_all
from refsys.ops.triton_backend import copy_all, dense, unsupported_by_triton

# Storage, offset and shape of a weight: backward may receive an alias of it.
_Location = tuple[int, int, torch.Size]


class _Copy(NamedTuple):
    owner: "weakref.ref[Tensor]"
    version: int
    tensor: Tensor


_copies: dict[_Location, _Copy] = {}


def prepare_for_kernels(weights: Iterable[Tensor], x: Tensor) -> None:
    """Copy weights to the dtype of `x`, in one launch, if Triton kernels will read them.

    Args:
        weights: Matrices that fused operators read; consumed only if kernels serve tensors like x.
        x: An activation.
    """
    backend = requested_for_all() or ("triton" if x.is_cuda else "reference")
    if backend == "triton" and not unsupported_by_triton(x):
        prepare(weights, x.dtype)


def prepare(weights: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Copy all weights of another dtype, in one launch; a copy lives as long as its weight."""
    sources = [
        weight
        for weight in weights
        if weight.dtype != dtype and weight.is_contiguous() and not weight.is_inference()
    ]
    targets = [_target(weight, dtype) for weight in sources]
    copy_all(targets, sources)
    for weight, target in zip(sources, targets, strict=True):
        location = _location(weight)
        if location not in _copies:
            weakref.finalize(weight, _copies.pop, location, None)
        _copies[location] = _Copy(weakref.ref(weight), weight._version, target)


def in_dtype(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight, dense and of this dtype: itself, its copy, or a new copy in scratch."""
    copy = _find(weight, dtype)
    if copy and not weight.is_inference() and copy.version == weight._version:
        return copy.tensor
    return dense(name, weight, dtype)


def _target(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor to copy into: that of an earlier copy of the same weight and dtype."""
    copy = _find(weight, dtype)
    if copy:
        return copy.tensor
    return torch.empty_like(weight, dtype=dtype, requires_grad=False)


def _find(weight: Tensor, dtype: torch.dtype) -> _Copy | None:
    location = _location(weight)
    copy = _copies.get(location)
    if copy is None or copy.tensor.dtype != dtype or not weight.is_contiguous():
        return None
    owner = copy.owner()
    # The former location of a moved weight may be taken by another tensor.
    return copy if owner is not None and _location(owner) == location else None


def _location(weight: Tensor) -> _Location:
    return weight.untyped_storage()._cdata, int(weight.storage_offset()), weight.shape
