"""Filling Triton's own cache with what a device will ask for, on a machine that has none.

The kernels are looked up and compiled by Triton's launch path (see `offline`), so an entry is found
again wherever Triton, its ptxas and the kernels' sources are the same.
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
    """One variant of a kernel in the cache.

    Attributes:
        kernel: As ``triangle_attention.forward``.
        hit: It was there.
        error: The compiler's message if it does not compile, else None.
        unbuilt: Reason why its launcher, which some versions of Triton build for each signature,
            is left to the device's machine; None if nothing is left.
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
    """Return what training steps and single operators launch, one launch for each variant.

    Args:
        architecture: As ``sm_90``.
        tokens: Crops.
        preset: Model size.
        precisions: Dtype tables.
        steps: Training steps too; otherwise operators alone.

    Returns:
        Launches by their `bench.compilation.offline.variant`.
    """
    found: dict[str, Launch] = {}
    for precision in precisions:
        for count in tokens:
            for launches_of in (single_launches, step_launches) if steps else (single_launches,):
                launches = launches_of(architecture, count, preset=preset, precision=precision)
                found |= distinct(launches, architecture)
    return found


def warm(
    launches: Mapping[str, Launch], architecture: str, jobs: int, done: Callable[[Warmed], None]
) -> list[Warmed]:
    """Compile what Triton's cache lacks of these variants, and call `done` for each as it comes.

    Args:
        launches: See `wanted_launches`.
        architecture: What to compile for.
        jobs: Processes.
        done: Called in this process.
    """
    found = []
    with ProcessPool(jobs) as pool:
        todo = [pool.submit(_warm, launch, architecture) for launch in launches.values()]
        for future in as_completed(todo):
            found.append(future.result())
            done(found[-1])
    return sorted(found, key=lambda each: each.kernel)


def _warm(launch: Launch, architecture: str) -> Warmed:
    """Compile one variant, in a process of the pool."""
    unbuilt = None
    with offline(architecture), count_compilations() as compilations:
        try:
            compiled = compile_launch(launch)
            unbuilt = build_host_modules(compiled)
        except Exception as raised:
            # Whatever a compiler may say of a kernel is a finding about the kernel.
            error = f"{type(raised).__name__}: {' '.join(str(raised).split())[:500]}"
            return Warmed(launch.kernel, hit=False, error=error, unbuilt=None)
    return Warmed(launch.kernel, hit=not compilations.misses, error=None, unbuilt=unbuilt)


def cache_folder() -> Path:
    """Return the folder of Triton's cache."""
    from triton import knobs

    return Path(knobs.cache.dir).absolute()


def requirements() -> str:
    """Return what must be the same where the cache is carried to."""
    import triton

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"Triton {triton.__version__} of the same wheel, Python {version}, these sources"
