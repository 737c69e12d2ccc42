"""Search for faster launch options of each kernel of an operator, on this device.

Starting from the options in force, one option at a time is halved or doubled, as long as that makes
the kernel faster by more than the noise. Candidate and best alternate, so that a drifting clock
favours neither. Results of a candidate must agree with those of the shipped options.
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
# Allowed difference relative to the largest result, by dtype: sums have another order.
_AGREEMENT = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


@dataclass(frozen=True, slots=True)
class Tuned:
    """Launch options found for one kernel.

    Attributes:
        key: Kernel, architecture, dtype and size that they hold for.
        shipped: Options that the kernel is shipped with.
        options: Fastest options.
        shipped_s: Time of the kernel's launches in a step with the shipped options: the median
            of the last comparison. Unit: s.
        best_s: Time with the fastest options. Unit: s.
        tried: Number of candidates that ran.
    """

    key: Key
    shipped: Mapping[str, int]
    options: Mapping[str, int]
    shipped_s: float
    best_s: float
    tried: int

    @property
    def speedup(self) -> float:
        """Return the shipped time over the best time."""
        return self.shipped_s / self.best_s


def check_device(device: Device) -> None:
    """Check that kernels can run on a device.

    Raises:
        UsageError: No kernel runs here; the message says why.
    """
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
        rounds: Number of rounds in which candidate and best alternate.
        keys: Kernels that are tuned; all that a step starts if None.
        expired: Returns True when no further candidate is to be tried.

    Raises:
        UsageError: a step starts no kernel or leaves no gradient, or two of them differ.

    Yields:
        Result of each kernel. Options that are faster than shipped are stored; stored options are
        replaced in any case.
    """
    expected, again = _step(program), _step(program)
    if not expected:
        raise UsageError("a step leaves no gradient to compare: tune it with backward")
    if not all(torch.equal(*pair) for pair in zip(expected, again, strict=True)):
        raise UsageError("two steps have different results; tune single operators")
    for key in keys_of(program) if keys is None else keys:
        tuned = _tune_kernel(program, device, rounds, key, expected, expired)
        if tuned.options != tuned.shipped or path_of(key).exists():
            keep(key, tuned.options, _evidence(tuned, device))
        yield tuned


def keys_of(program: Program) -> list[Key]:
    """Return the tuning keys of the kernels that a step starts, without repetitions.

    Raises:
        UsageError: A step starts no kernel.
    """
    keys: dict[Key, None] = {}
    with watch_keys(keys.setdefault):
        _run(program)
    if not keys:
        raise UsageError("nothing to tune: a step starts no kernel of this project")
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
            candidate_s, best_s = _compare(program, device, rounds, key.kernel, candidate, best)
            if candidate_s < (1 - _GAIN) * best_s:
                best, improved = candidate, True
                break
    candidate_s, best_s = _compare(program, device, rounds, key.kernel, best, shipped)
    if best != shipped and candidate_s >= best_s:
        best, candidate_s = dict(shipped), best_s
    return Tuned(key, shipped, best, best_s, candidate_s, len(tried) - 1)


def _neighbours(options: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield options with one of them halved or doubled, or a stage more or less."""
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
    """Return True if the candidate runs and its gradients agree with the expected ones."""
    try:
        with use_launch_options({key.kernel: candidate}):
            gradients = _step(program)
    except Exception:
        # Any error of the compiler or the driver rules the candidate out.
        return False
    limit = _AGREEMENT[key.dtype]
    return all(
        bool((one - other).abs().max() <= limit * other.abs().max())
        for one, other in zip(gradients, expected, strict=True)
    )


def _compare(
    program: Program,
    device: Device,
    rounds: int,
    kernel: str,
    first: Mapping[str, int],
    second: Mapping[str, int],
) -> tuple[float, float]:
    """Return the median seconds of a kernel in a step with two sets of options in turns."""
    times: tuple[list[float], list[float]] = [], []
    for turn in range(rounds + 1):
        for options, seconds in zip((first, second), times, strict=True):
            with use_launch_options({kernel: options}):
                elapsed = _time_launches(program, device, kernel)
            # The first turn compiles and warms up.
            if turn:
                seconds.append(elapsed)
    return median(times[0]), median(times[1])


def _time_launches(program: Program, device: Device, kernel: str) -> float:
    """Return the seconds that the launches of one kernel take in a step."""
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
    # Every other interval is other work.
    return sum(watch.intervals()[::2])


def _run(program: Program) -> None:
    for phase in program.phases:
        program.run(phase)


def _step(program: Program) -> list[Tensor]:
    """Return the gradients after a step, in float32."""
    _run(program)
    return [tensor.float().clone() for tensor in program.tensors().get("gradients", ())]


def _frozen(options: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(options.items()))


def _evidence(tuned: Tuned, device: Device) -> dict[str, Any]:
    """Return the origin of a result, to be stored with it."""
    from bench.records import provenance

    return {
        "shipped": dict(tuned.shipped),
        "shipped_s": tuned.shipped_s,
        "best_s": tuned.best_s,
        "tried": tuned.tried,
        "device": device.describe().name,
        "software": provenance.software(),
        "source_sha256": provenance.source_sha256(),
    }
