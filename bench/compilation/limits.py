"""What a kernel may not take: the rules that ``foldperf compile`` holds every kernel to."""

from collections.abc import Iterator

from bench.compilation.compiler import Compiled
from bench.compilation.resources import shared_limit

_HALF = ("fp16", "bf16")


def violations(compiled: Compiled) -> Iterator[str]:
    """What is wrong with a kernel, a line each; nothing if it keeps every rule."""
    if compiled.resources is None:
        yield f"does not compile: {compiled.error}"
        return
    found, architecture = compiled.resources, compiled.specimen.architecture
    if found.spilled_bytes:
        yield f"spills {found.spilled_bytes} bytes of each thread's registers"
    if found.shared_bytes > shared_limit(architecture):
        yield (
            f"takes {found.shared_bytes} bytes of shared memory; "
            f"{architecture} has {shared_limit(architecture)}"
        )
    if found.atomic_instructions:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found.atomic_instructions.items())
        yield f"has atomic instructions: {kinds}"
    if found.slow_products and compiled.specimen.dtype in _HALF:
        yield f"has {found.slow_products} products of half precision without matrix instructions"
