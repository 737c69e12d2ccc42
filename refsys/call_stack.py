"""Room on the interpreter's call stack, so that the cost of a call does not depend on its depth."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

# Slots of 8 bytes that the frame of `call_with_room` reserves and never touches. The interpreter
# rounds its chunk up to a power of two, which leaves nearly as much for the calls below.
_SLOTS = 2**16


def call_with_room(
    function: Callable[_Arguments, _Result],
    /,
    *arguments: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Result:
    """Call a function with half a mebibyte of call stack, and return its result.

    CPython keeps frames in chunks of 16 KiB and, until it was mended in 2026 (for 3.13 and later),
    returned a chunk to the system as soon as the call that needed it ended. A function that is
    called in a loop at a depth where a chunk is full then maps and unmaps memory in every call: the
    tests of fused kernels took a third longer, and measured times depended on lines far above the
    measured one. A frame larger than a chunk gets a chunk of its own, whose rest the calls below
    share.

    Args:
        function: Function to call.
        arguments: Its positional arguments.
        named: Its named arguments.

    Source: https://github.com/python/cpython/issues/142183
    """
    return function(*arguments, **named)


call_with_room.__code__ = call_with_room.__code__.replace(co_stacksize=_SLOTS)
