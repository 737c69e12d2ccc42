"""Copies of master weights in the dtype that kernels compute in.

A model makes those of all its weights at once, in one launch, before it runs; a kernel whose weight
has none, or has changed since, copies it for itself. A weight is changed in place, as optimizers do
it: what bypasses autograd's count of changes (``weight.data.copy_``) is seen by the next model run,
not by an operator that is called alone.
"""

import weakref
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from refsys.ops.triton_backend import copy_all, dense

# Where a weight lies and its shape: backward may be given an alias of it.
_Place = tuple[int, int, torch.Size]


class _Copy(NamedTuple):
    owner: "weakref.ref[Tensor]"
    version: int
    tensor: Tensor


_copies: dict[_Place, _Copy] = {}


def prepare(weights: Iterable[Tensor], dtype: torch.dtype) -> None:
    """Copies all weights that are of another dtype, in one launch.

    A copy lives as long as its weight.
    """
    wanted = [w for w in weights if w.dtype != dtype and w.is_contiguous() and not w.is_inference()]
    targets = [_target(weight, dtype) for weight in wanted]
    copy_all(targets, wanted)
    for weight, target in zip(wanted, targets, strict=True):
        place = _place(weight)
        if place not in _copies:
            weakref.finalize(weight, _copies.pop, place, None)
        _copies[place] = _Copy(weakref.ref(weight), weight._version, target)


def in_dtype(name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight, dense and of this dtype: itself, its copy, or a copy in scratch."""
    found = _find(weight, dtype)
    if found and not weight.is_inference() and found.version == weight._version:
        return found.tensor
    return dense(name, weight, dtype)


def _target(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Where the copy goes: where an earlier one is, if it is alike."""
    found = _find(weight, dtype)
    if found:
        return found.tensor
    return torch.empty_like(weight, dtype=dtype, requires_grad=False)


def _find(weight: Tensor, dtype: torch.dtype) -> _Copy | None:
    place = _place(weight)
    found = _copies.get(place)
    if found is None or found.tensor.dtype != dtype or not weight.is_contiguous():
        return None
    owner = found.owner()
    # A weight that was moved leaves its place to others.
    return found if owner is not None and _place(owner) == place else None


def _place(weight: Tensor) -> _Place:
    return weight.untyped_storage()._cdata, int(weight.storage_offset()), weight.shape
