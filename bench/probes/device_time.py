"""Device time of work, separate from the host's time to launch it.

The wall time of a short operator is often that of the host: Python, dispatch and launches. The
replay of a graph of the same kernels has none of these, so it takes the device's time. If the work
cannot be captured, the durations of its kernels are summed from a profile.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from bench.devices import Device, Unavailable
from bench.probes.device_events import profile_work
from bench.records.metrics import Value, from_samples, missing

Work = Callable[[], object]

# Minimum duration of a graph, which makes the start of a replay negligible. Unit: s.
_GRAPH_S = 2e-4
_MOST_CALLS_IN_A_GRAPH = 100
_FEWEST_SAMPLES = 3
_PROFILES = 6
# Limit of the total time of one kind of samples; fewer are taken beyond it. Unit: s.
_LIMIT_S = 10.0
_WARM_UP_CALLS = 3


@dataclass(frozen=True, slots=True)
class WorkTimes:
    """Times of one call of some work. Unit: s.

    Attributes:
        device: Time on the device, by graph replay or by the profiler; missing on the CPU.
        eager: Time per call of repeated calls: the longer of device time and host time.
        host: Time until the call returns, starting from an idle device.
    """

    device: Value
    eager: Value
    host: Value


def work_times(
    work: Work,
    device: Device,
    *,
    samples: int = 20,
    batch_s: float = 0.01,
    flush: Work | None = None,
) -> WorkTimes:
    """Time some work on the device, called in eager mode, and on the host.

    Args:
        work: Function that runs the same kernels on the same tensors at every call.
        device: Device on which it runs.
        samples: Samples of each kind; fewer, at least 3, if they would take more than 10 s.
        batch_s: Minimum time of a sample; short work is called several times in one. Unit: s.
        flush: Function that evicts the inputs from the caches, called before each sample and not
            timed; a sample is then a single call, since a second one would find warm caches.
    """
    for _ in range(_WARM_UP_CALLS):
        work()
    sampling = _Sampling(device, samples, batch_s, flush)
    return WorkTimes(
        _device_time(work, sampling), sampling.time(work, "eager calls"), _host_time(work, sampling)
    )


def device_time(work: Work, device: Device) -> Value:
    """Time some work on the device alone; see `work_times`."""
    for _ in range(_WARM_UP_CALLS):
        work()
    return _device_time(work, _Sampling(device))


def affordable(seconds: float, samples: int = 20) -> int:
    """Return the number of samples of that length to take: fewer if long, but at least 3."""
    return min(samples, max(_FEWEST_SAMPLES, int(_LIMIT_S / max(seconds, 1e-9))))


def host_samples(
    parts: Sequence[Work], device: Device, samples: int, flush: Work | None = None
) -> list[list[float]]:
    """Time the host in each part, called in order, starting from an idle device. Unit: s.

    Returns:
        Samples of each part.
    """
    times: list[list[float]] = [[] for _ in parts]
    for _ in range(samples):
        if flush:
            flush()
        device.synchronize()
        for part, part_times in zip(parts, times, strict=True):
            start = perf_counter()
            part()
            part_times.append(perf_counter() - start)
    device.synchronize()
    return times


@dataclass(frozen=True, slots=True)
class _Sampling:
    """Parameters of the sampling of calls; see `work_times`."""

    device: Device
    samples: int = 20
    batch_s: float = 0.01
    flush: Work | None = None

    def time(self, call: Work, method: str, works: int = 1) -> Value:
        """Return the median time by stopwatch of one unit of work, `works` of which are a call."""
        seconds = self.estimate(call)
        calls = 1 if self.flush else max(1, math.ceil(self.batch_s / seconds))
        samples = affordable(calls * seconds, self.samples)
        watch = self.device.stopwatch()
        self.device.synchronize()
        for _ in range(samples):
            if self.flush:
                self.flush()
            watch.mark()
            for _ in range(calls):
                call()
            watch.mark()
        # Every second interval lies between two samples.
        batches = watch.intervals()[::2]
        method = f"{method}, stopwatch, median of batches of {calls * works}"
        if self.flush:
            method += ", caches flushed before each"
        return from_samples([batch / calls / works for batch in batches], method)

    def estimate(self, call: Work) -> float:
        """Return an estimate of the time of a call. Unit: s."""
        calls = 1
        while True:
            watch = self.device.stopwatch()
            self.device.synchronize()
            watch.mark()
            for _ in range(calls):
                call()
            watch.mark()
            (seconds,) = watch.intervals()
            # Half a sample is accurate enough; the cap ends the loop for calls that take no time.
            if seconds >= self.batch_s / 2 or calls >= 2**16:
                return max(seconds / calls, 1e-9)
            calls *= 2


def _device_time(work: Work, sampling: _Sampling) -> Value:
    try:
        replay = sampling.device.capture(work)
    except Unavailable as error:
        if sampling.device.torch_device.type == "cpu":
            return missing(str(error))
        return _profiled_time(work, sampling, str(error))
    works = 1
    if not sampling.flush:
        needed = math.ceil(_GRAPH_S / sampling.estimate(replay))
        several = min(_MOST_CALLS_IN_A_GRAPH, needed)
        if several > 1:
            try:
                replay = sampling.device.capture(lambda: [work() for _ in range(several)])
                works = several
            except Unavailable:
                pass  # for example for lack of memory: the graph of one call remains
    return sampling.time(replay, f"graph of {works} calls replayed", works)


def _profiled_time(work: Work, sampling: _Sampling, refusal: str) -> Value:
    seconds = sampling.estimate(work)
    calls = 1 if sampling.flush else max(1, math.ceil(sampling.batch_s / seconds))
    method = f"sum of kernel durations by the profiler, median of profiles of {calls} calls"
    times, lost = [], 0
    for _ in range(_PROFILES):
        if sampling.flush:
            sampling.flush()
        events = profile_work(lambda: [work() for _ in range(calls)], sampling.device)
        lost += events.launches_without_kernel
        times.append(events.seconds / calls)
    if min(times) <= 0:
        return missing(f"{refusal}; the profiler saw no kernel", method)
    flags = [f"not replayed: {refusal}"]
    if lost:
        flags.append(f"the profiler lost {lost} kernels")
    return replace(from_samples(times, method, tuple(flags)), quality="degraded")


def _host_time(work: Work, sampling: _Sampling) -> Value:
    samples = affordable(sampling.estimate(work), sampling.samples)
    (times,) = host_samples([work], sampling.device, samples, sampling.flush)
    return from_samples(times, "clock of the host, starting from an idle device, median")
