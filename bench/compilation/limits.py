"""Resource limits of kernels, checked by ``foldperf compile``."""

from collections.abc import Iterator

from bench.compilation.compiler import Compiled
from bench.compilation.resources import shared_limit

_HALF = ("fp16", "bf16")


def violations(compiled: Compiled) -> Iterator[str]:
    """Yield a line for each limit that a kernel violates."""
    if compiled.resources is None:
        yield f"does not compile: {compiled.error}"
        return
    used, architecture = compiled.resources, compiled.specimen.architecture
    if used.spilled_bytes:
        yield f"spills {used.spilled_bytes} bytes of each thread's registers"
    if used.shared_bytes > shared_limit(architecture):
        yield (
            f"uses {used.shared_bytes} bytes of shared memory; "
            f"{architecture} has {shared_limit(architecture)}"
        )
    if used.atomic_instructions:
        kinds = ", ".join(f"{count} {kind}" for kind, count in used.atomic_instructions.items())
        yield f"has atomic instructions: {kinds}"
    if used.slow_products and compiled.specimen.dtype in _HALF:
        yield f"has {used.slow_products} products of half precision without matrix instructions"
