"""Integers of a launch on the device: out of their code, and with a unit that is known."""

import triton
import triton.language as tl


@triton.jit
def decode(code):
    """Return the integer that `refsys.ops.specialization.encoded` was given."""
    return (code >> 1) - 1


@triton.jit
def in_units(value, UNIT: tl.constexpr):
    """Return the value, a multiple of UNIT, so that the compiler sees that it is one."""
    if UNIT == 1:
        return value
    return value // UNIT * UNIT
