"""Integers of a launch on the device: decoding, and multiples of a constant unit."""

import triton
import triton.language as tl


@triton.jit
def decode(code):
    """Return the integer behind a code of `refsys.ops.specialization.encoded`."""
    return (code >> 1) - 1


@triton.jit
def in_units(value, UNIT: tl.constexpr):
    """Return the value, a multiple of UNIT, so that the compiler sees that it is one."""
    if UNIT == 1:
        return value
    return value // UNIT * UNIT
