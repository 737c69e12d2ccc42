"""Checks at an operator's door: an error names the argument and what was expected."""

from collections.abc import Sequence

import torch
from torch import Tensor

from refsys.errors import ArgumentError


def check(
    name: str,
    tensor: Tensor,
    shape: Sequence[int],
    *,
    like: Tensor,
    dtype: torch.dtype | None = None,
) -> None:
    """Checks one argument.

    Args:
        name: The argument's name.
        tensor: The argument.
        shape: The shape it must have.
        like: The argument that decides the device.
        dtype: The dtype it must have; any floating-point dtype if None.

    Raises:
        ArgumentError: it does not.
    """
    if tensor.shape != torch.Size(shape):
        raise ArgumentError(f"{name} has shape {tuple(tensor.shape)}; expected {tuple(shape)}")
    if tensor.device != like.device:
        raise ArgumentError(f"{name} is on {tensor.device}; expected {like.device}")
    if dtype is None:
        if not tensor.dtype.is_floating_point:
            raise ArgumentError(f"{name} is {tensor.dtype}; expected a floating-point dtype")
    elif tensor.dtype != dtype:
        raise ArgumentError(f"{name} is {tensor.dtype}; expected {dtype}")


def check_rank(name: str, tensor: Tensor, axes: str) -> None:
    """Checks that an argument has as many axes as `axes` has words, as in "batch row token c".

    Raises:
        ArgumentError: it does not.
    """
    if tensor.dim() != len(axes.split()):
        raise ArgumentError(f"{name} has shape {tuple(tensor.shape)}; expected [{axes}]")


def nbytes(*tensors: Tensor | None) -> int:
    """Bytes that the tensors hold; an absent one holds none."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def check_dropout(
    residual: Tensor | None,
    keep: Tensor | None,
    rate: float,
    shape: Sequence[int],
    *,
    like: Tensor,
) -> None:
    """Checks what an update is dropped by and added to.

    Args:
        residual: [batch, row, token, c], or None.
        keep: [batch, token, c] bool, or None; needs a residual.
        rate: Probability of dropping.
        shape: Of the update.
        like: The argument that decides device and dtype.

    Raises:
        ArgumentError: one does not fit.
    """
    if residual is not None:
        check("residual", residual, shape, like=like, dtype=like.dtype)
    if keep is None:
        return
    if residual is None:
        raise ArgumentError("keep drops parts of an update: it needs a residual")
    if not 0 <= rate < 1:
        raise ArgumentError(f"rate={rate} is outside [0, 1)")
    batch, _rows, tokens, channels = shape
    check("keep", keep, (batch, tokens, channels), like=like, dtype=torch.bool)
