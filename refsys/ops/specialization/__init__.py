"""Integers of a launch that Triton must not specialize a kernel for.

Triton compiles a separate kernel where an integer is 1 or a multiple of 16, so that addresses can
be vectorized. Sizes that follow from a sequence's length would give each length separate kernels. A
plain argument is named in ``do_not_specialize``; that does not reach the elements of a tuple, so
they are passed in a code that is neither 1 nor a multiple of 16. Vectorization relies on a constant
instead: a unit of which all integers of one kind are multiples. `kernels` decodes them on the
device.
"""

from collections.abc import Iterable

from torch import Tensor

# Divisor that Triton specializes for.
UNIT = 16


def encoded(values: Iterable[int]) -> tuple[int, ...]:
    """Return non-negative integers in a code that Triton does not specialize for."""
    return tuple(2 * value + 3 for value in values)


def common_unit(values: Iterable[int], unit: int = UNIT) -> int:
    """Return `unit` if all values are multiples of it, else 1."""
    return unit if all(value % unit == 0 for value in values) else 1


def encoded_strides(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor, all but the last in code.

    Kernels are specialized for the last one: whether neighbours are adjacent.
    """
    *strides, last = tensor.stride()
    return *encoded(strides), last


def stride_unit(tensor: Tensor) -> int:
    """Return the `common_unit` of all strides but the last."""
    return common_unit(tensor.stride()[:-1])
