"""Finding faster launch options: each kernel of an operator by itself, on the device at hand.

From the options in force one is halved or doubled at a time, as long as that makes the kernel
faster by more than the noise. Candidate and best take turns, so that a clock that drifts favours
neither. What a candidate computes must agree with what the shipped options compute.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from bench.devices import Device
from bench.errors import UsageError
from refsys.ops.triton_backend import (
    around_launches,
    shipped_options,
    unsupported_by_triton,
    use_launch_options,
)
from refsys.ops.tuning import Key, keep, path_of, watch_keys
from workloads.workload import Program

# A candidate has to be faster by this much: less is noise.
_GAIN = 0.03
_BLOCKS = (16, 256)
_WARPS = (1, 16)
_STAGES = (1, 5)
# Of the largest result, by dtype: sums in another order.
_AGREEMENT = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for one kernel.

    Attributes:
        key: What it is good for.
        shipped: The options that it is shipped with.
        options: The fastest found.
        shipped_s: What the kernel's launches in a step take with the shipped options: the median
            of the last comparison.
        best_s: The same with the fastest.
        tried: How many candidates ran.
    """

    key: Key
    shipped: Mapping[str, int]
    options: Mapping[str, int]
    shipped_s: float
    best_s: float
    tried: int

    @property
    def speedup(self) -> float:
        """How many times as fast as shipped."""
        return self.shipped_s / self.best_s


def check_device(device: Device) -> None:
    """Raises `UsageError` where kernels cannot run."""
    reason = unsupported_by_triton(torch.empty(16, 16, device=device.torch_device))
    if reason:
        raise UsageError(f"nothing to tune: {reason}")


def tune(
    program: Program,
    device: Device,
    rounds: int,
    *,
    keys: Sequence[Key] | None = None,
    expired: Callable[[], bool] = lambda: False,
) -> Iterator[Tuned]:
    """Tune kernels that a step of `program` starts, one after the other.

    Args:
        program: Its operators run on their kernels, on `device`.
        device: Device under test.
        rounds: How often candidate and best take turns.
        keys: Kernels that are tuned; all that a step starts if None.
        expired: Returns True when no further candidate is to be tried.

    Raises:
        UsageError: a step starts no kernel or leaves no gradient, or two of them differ.

    Yields:
        What was found for each kernel; what is faster than shipped is kept, and replaces what was
        kept before in any case.
    """
    expected, again = _step(program), _step(program)
    if not expected:
        raise UsageError("a step of this leaves no gradient to compare: tune it with backward")
    if not all(torch.equal(*pair) for pair in zip(expected, again, strict=True)):
        raise UsageError("two steps of this compute different things; tune single operators")
    for key in keys_of(program) if keys is None else keys:
        found = _tune_kernel(program, device, rounds, key, expected, expired)
        if found.options != found.shipped or path_of(key).exists():
            keep(key, found.options, _evidence(found, device))
        yield found


def keys_of(program: Program) -> list[Key]:
    """What the kernels that a step starts are tuned for, each once.

    Raises:
        UsageError: it starts none.
    """
    keys: dict[Key, None] = {}
    with watch_keys(keys.setdefault):
        _run(program)
    if not keys:
        raise UsageError("nothing to tune: a step starts no kernel of ours")
    return list(keys)


def kernel_times(program: Program, device: Device, rounds: int = 3) -> dict[Key, float]:
    """Return the seconds that the launches of each kernel take in a step: the median of some.

    Raises:
        UsageError: a step starts no kernel.
    """
    keys = keys_of(program)
    times: dict[Key, list[float]] = {key: [] for key in keys}
    for _ in range(rounds):
        for key in keys:
            times[key].append(_time_launches(program, device, key.kernel))
    return {key: median(seconds) for key, seconds in times.items()}


def _tune_kernel(
    program: Program,
    device: Device,
    rounds: int,
    key: Key,
    expected: list[Tensor],
    expired: Callable[[], bool],
) -> Tuned:
    shipped = shipped_options(key.kernel, key.architecture, key.width, getattr(torch, key.dtype))
    best, tried = dict(shipped), {_frozen(shipped)}
    improved = True
    while improved:
        improved = False
        for candidate in _neighbours(best):
            if _frozen(candidate) in tried or expired():
                continue
            tried.add(_frozen(candidate))
            if not _agrees(program, key, candidate, expected):
                continue
            ours, theirs = _compare(program, device, rounds, key.kernel, candidate, best)
            if ours < (1 - _GAIN) * theirs:
                best, improved = candidate, True
                break
    ours, theirs = _compare(program, device, rounds, key.kernel, best, shipped)
    if best != shipped and ours >= theirs:
        best, ours = dict(shipped), theirs
    return Tuned(key, shipped, best, theirs, ours, len(tried) - 1)


def _neighbours(options: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Every option halved and doubled; stages by one."""
    for name, value in options.items():
        if name == "num_stages":
            low, high = _STAGES
            steps: tuple[int, ...] = (value - 1, value + 1)
        else:
            low, high = _WARPS if name == "num_warps" else _BLOCKS
            # A tile of the interpreter may be larger than one that a device could hold.
            high = max(high, value)
            steps = (value // 2, value * 2)
        for step in steps:
            if low <= step <= high:
                yield {**options, name: step}


def _agrees(
    program: Program, key: Key, candidate: Mapping[str, int], expected: list[Tensor]
) -> bool:
    """Whether the candidate runs at all, and computes what it should."""
    try:
        with use_launch_options({key.kernel: candidate}):
            found = _step(program)
    except Exception:
        # Whatever a compiler or a driver says of a candidate: it is not one.
        return False
    limit = _AGREEMENT[key.dtype]
    return all(
        bool((one - other).abs().max() <= limit * other.abs().max())
        for one, other in zip(found, expected, strict=True)
    )


def _compare(
    program: Program,
    device: Device,
    rounds: int,
    kernel: str,
    ours: Mapping[str, int],
    theirs: Mapping[str, int],
) -> tuple[float, float]:
    """Median seconds that the kernel takes in a step with each, taking turns."""
    times: tuple[list[float], list[float]] = [], []
    for turn in range(rounds + 1):
        for options, seconds in zip((ours, theirs), times, strict=True):
            with use_launch_options({kernel: options}):
                found = _time_launches(program, device, kernel)
            # The first turn compiles and warms up.
            if turn:
                seconds.append(found)
    return median(times[0]), median(times[1])


def _time_launches(program: Program, device: Device, kernel: str) -> float:
    """Seconds that the launches of one kernel take in a step."""
    watch = device.stopwatch()

    @contextmanager
    def around(name: str) -> Iterator[None]:
        if name == kernel:
            watch.mark()
        yield
        if name == kernel:
            watch.mark()

    with around_launches(around):
        _run(program)
    # Between every other pair of marks something else runs.
    return sum(watch.intervals()[::2])


def _run(program: Program) -> None:
    for phase in program.phases:
        program.run(phase)


def _step(program: Program) -> list[Tensor]:
    """The gradients after a step, in float32."""
    _run(program)
    return [tensor.float().clone() for tensor in program.tensors().get("gradients", ())]


def _frozen(options: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(options.items()))


def _evidence(found: Tuned, device: Device) -> dict[str, Any]:
    """What a kept result says of how it came about."""
    from bench.records import provenance

    return {
        "shipped": dict(found.shipped),
        "shipped_s": found.shipped_s,
        "best_s": found.best_s,
        "tried": found.tried,
        "device": device.describe().name,
        "software": provenance.software(),
        "source_sha256": provenance.source_sha256(),
    }
