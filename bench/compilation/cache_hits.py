"""Count of kernel compilations and of hits in Triton's cache within a block of code."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_PREFIX, _SUFFIX = "refsys.ops.", ".kernels"


@dataclass(frozen=True, slots=True)
class Compilations:
    """Kernels requested from Triton, once for each variant and process.

    Attributes:
        hits: Names of the kernels that were in the cache.
        misses: Names of the kernels that were compiled.
    """

    hits: list[str] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)


@contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Yield the compilations of the block, filled in as they happen.

    A listener that is already registered is still called. A kernel that the process has already
    loaded is neither a hit nor a miss.

    Raises:
        ImportError: Triton is not installed.
    """
    from triton import knobs

    compilations = Compilations()
    outer = knobs.compilation.listener

    def listen(*, src: Any, cache_hit: bool, **details: Any) -> None:
        (compilations.hits if cache_hit else compilations.misses).append(kernel_name(src))
        if outer is not None:
            outer(src=src, cache_hit=cache_hit, **details)

    knobs.compilation.listener = listen
    try:
        yield compilations
    finally:
        knobs.compilation.listener = outer


def kernel_name(source: Any) -> str:
    """Return a kernel's name, as ``triangle_attention.forward``; for other kernels, Triton's."""
    kernel = getattr(source, "fn", None)
    module = str(getattr(kernel, "__module__", ""))
    if kernel is not None and module.startswith(_PREFIX) and module.endswith(_SUFFIX):
        return f"{module.removeprefix(_PREFIX).removesuffix(_SUFFIX)}.{kernel.__name__}"
    return str(source.name)
