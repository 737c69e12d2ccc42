"""Compilations of a block of code, told apart from kernels that Triton finds in its cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_PREFIX, _SUFFIX = "refsys.ops.", ".kernels"


@dataclass(frozen=True, slots=True)
class Compilations:
    """Kernels that Triton was asked for, each once for every variant and process.

    Attributes:
        hits: Names of those that were in its cache.
        misses: Names of those that were compiled.
    """

    hits: list[str] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)


@contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Yield the compilations of the block, as they come; a listener that is there hears them too.

    A kernel that the process has loaded already is neither a hit nor a miss.

    Raises:
        ImportError: Triton is not installed.
    """
    from triton import knobs

    found = Compilations()
    outer = knobs.compilation.listener

    def listen(*, src: Any, cache_hit: bool, **details: Any) -> None:
        (found.hits if cache_hit else found.misses).append(kernel_name(src))
        if outer is not None:
            outer(src=src, cache_hit=cache_hit, **details)

    knobs.compilation.listener = listen
    try:
        yield found
    finally:
        knobs.compilation.listener = outer


def kernel_name(source: Any) -> str:
    """Return a kernel's name, as ``triangle_attention.forward``; Triton's own if it is not ours."""
    kernel = getattr(source, "fn", None)
    module = str(getattr(kernel, "__module__", ""))
    if kernel is not None and module.startswith(_PREFIX) and module.endswith(_SUFFIX):
        return f"{module.removeprefix(_PREFIX).removesuffix(_SUFFIX)}.{kernel.__name__}"
    return str(source.name)
