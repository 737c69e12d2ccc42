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

    CPython 3.11 and 3.12, and the first releases of 3.13 and 3.14, keep frames in chunks of 16 KiB
    and free a chunk as soon as it is empty. A loop whose calls cross the boundary of a chunk maps
    and unmaps memory in every call, which slows an interpreted kernel by a third, and makes
    measured times depend on the depth of the stack. A frame larger than a chunk gets a larger chunk
    of its own, whose rest serves all calls below.

    Args:
        function: Function to call.
        arguments: Its positional arguments.
        named: Its named arguments.

    Source: https://github.com/python/cpython/issues/142183
    """
    return function(*arguments, **named)


call_with_room.__code__ = call_with_room.__code__.replace(co_stacksize=_SLOTS)
