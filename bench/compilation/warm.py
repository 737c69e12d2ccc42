"""Prefilling of Triton's own cache for a device, on a machine without it.

Kernels are looked up and compiled through Triton's launch path (see `offline`). An entry is valid
wherever Triton, its ptxas and the kernels' sources are the same.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path

from bench.compilation.cache_hits import count_compilations
from bench.compilation.host_modules import build_host_modules
from bench.compilation.launches import distinct, single_launches, step_launches
from bench.compilation.offline import compile_launch, offline
from refsys.ops.triton_backend import Launch
from refsys.processes import ProcessPool


@dataclass(frozen=True, slots=True)
class Warmed:
    """Variant of a kernel in the cache.

    Attributes:
        kernel: Name such as ``triangle_attention.forward``.
        hit: Whether the cache had the variant already.
        error: Message of the compiler; None if the kernel compiles.
        unbuilt: Reason for which the launcher, which some versions of Triton build for each
            signature, must be built on the device's machine; None if nothing is missing.
    """

    kernel: str
    hit: bool
    error: str | None
    unbuilt: str | None


def wanted_launches(
    architecture: str,
    tokens: Iterable[int],
    preset: str,
    precisions: Iterable[str],
    *,
    steps: bool = True,
) -> dict[str, Launch]:
    """Return the launches of training steps and single operators, one for each variant.

    Args:
        architecture: Name such as ``sm_90``.
        tokens: Crop sizes.
        preset: Model preset.
        precisions: Names of dtype tables.
        steps: Include training steps; otherwise operators alone.

    Returns:
        Launches by their `bench.compilation.offline.variant`.
    """
    by_variant: dict[str, Launch] = {}
    for precision in precisions:
        for count in tokens:
            for launches_of in (single_launches, step_launches) if steps else (single_launches,):
                launches = launches_of(architecture, count, preset=preset, precision=precision)
                by_variant |= distinct(launches, architecture)
    return by_variant


def warm(
    launches: Mapping[str, Launch], architecture: str, jobs: int, done: Callable[[Warmed], None]
) -> list[Warmed]:
    """Compile the variants that Triton's cache lacks, and call `done` with each result.

    Args:
        launches: Launches by variant, from `wanted_launches`.
        architecture: Architecture to compile for.
        jobs: Number of worker processes.
        done: Callback in this process, called as results arrive.
    """
    results = []
    with ProcessPool(jobs) as pool:
        pending = [pool.submit(_warm, launch, architecture) for launch in launches.values()]
        for future in as_completed(pending):
            results.append(future.result())
            done(results[-1])
    return sorted(results, key=lambda result: result.kernel)


def _warm(launch: Launch, architecture: str) -> Warmed:
    """Compile one variant, in a process of the pool."""
    unbuilt = None
    with offline(architecture), count_compilations() as compilations:
        try:
            compiled = compile_launch(launch)
            unbuilt = build_host_modules(compiled)
        except Exception as raised:
            # Any error of the compiler is a result, not a failure of the run.
            error = f"{type(raised).__name__}: {' '.join(str(raised).split())[:500]}"
            return Warmed(launch.kernel, hit=False, error=error, unbuilt=None)
    return Warmed(launch.kernel, hit=not compilations.misses, error=None, unbuilt=unbuilt)


def cache_folder() -> Path:
    """Return the folder of Triton's cache."""
    from triton import knobs

    return Path(knobs.cache.dir).absolute()


def requirements() -> str:
    """Return the requirements on a machine that uses a copy of the cache."""
    import triton

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"Triton {triton.__version__} of the same wheel, Python {version}, these sources"
