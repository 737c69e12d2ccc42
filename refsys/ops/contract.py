"""Checks of an operator's arguments: an error names the argument and the expectation."""

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
    """Check one argument.

    Args:
        name: The argument's name.
        tensor: The argument.
        shape: Required shape.
        like: Argument with the required device.
        dtype: Required dtype; any floating-point dtype if None.

    Raises:
        ArgumentError: the argument differs from what is required.
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
    """Check that an argument has as many axes as `axes` has words, as in "batch row token c".

    Raises:
        ArgumentError: the number of axes differs.
    """
    if tensor.dim() != len(axes.split()):
        raise ArgumentError(f"{name} has shape {tuple(tensor.shape)}; expected [{axes}]")


def check_norm(x: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None) -> None:
    """Check scale and offset of a LayerNorm over the last axis of `x`; None is allowed.

    Raises:
        ArgumentError: a shape or device does not fit.
    """
    for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if tensor is not None:
            check(name, tensor, x.shape[-1:], like=x)


def nbytes(*tensors: Tensor | None) -> int:
    """Return the bytes of the tensors' elements; None counts as none."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def check_dropout(
    residual: Tensor | None,
    keep: Tensor | None,
    rate: float,
    shape: Sequence[int],
    *,
    like: Tensor,
) -> None:
    """Check the residual and the dropout mask of an update.

    Args:
        residual: [batch, row, token, c], or None.
        keep: [batch, token, c] bool, or None; needs a residual.
        rate: Probability of dropping.
        shape: Shape of the update.
        like: Argument with the required device and dtype.

    Raises:
        ArgumentError: an argument does not fit.
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
