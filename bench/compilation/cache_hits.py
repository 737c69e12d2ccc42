"""Kernels that Triton finds in its cache, and kernels that it compiles."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Compilations:
    """Names of kernels, once for each variant that was asked for.

    Attributes:
        hits: Kernels that were in the cache.
        misses: Kernels that were compiled.
    """

    hits: list[str] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)


@contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Count the kernels that are loaded inside the block."""
    import triton

    found = Compilations()
    before = triton.knobs.compilation.listener

    def listen(*, metadata: dict[str, Any], cache_hit: bool, **rest: Any) -> None:
        (found.hits if cache_hit else found.misses).append(str(metadata["name"]))
        if before:
            before(metadata=metadata, cache_hit=cache_hit, **rest)

    triton.knobs.compilation.listener = listen
    try:
        yield found
    finally:
        triton.knobs.compilation.listener = before
