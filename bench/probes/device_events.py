"""Kernels and launches of profiled work.

torch's profiler lists more than kernels on the device's timeline: ranges of ``record_function`` and
``Optimizer.step``, steps of the profiler, synchronizations. None of these is counted. The host's
side of a launch is a separate event, by which kernels missing from the profile are detected.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.devices import Device

_KERNEL = "kernel"
_COPIES = frozenset({"gpu_memcpy", "gpu_memset"})
_HOST_CALLS = frozenset({"cuda_runtime", "cuda_driver"})
_COPY_NAMES = ("Memcpy", "Memset")
# Names of events without an activity type that are neither kernels nor copies.
_OTHER_NAMES = re.compile(r"ProfilerStep[#*]|(Context|Stream|Event) Sync|Stream Wait Event")
_HOST_NAMES = re.compile(r"^(cuda|cu|hip)[A-Z]\w*$")
_LAUNCH = re.compile(r"^(cuda|cu|hip)\w*Launch\w*Kernel")
_GRAPH_LAUNCH = re.compile(r"^(cuda|cu|hip)GraphLaunch")


@dataclass(frozen=True, slots=True)
class DeviceEvents:
    """Profiled work of a device.

    Attributes:
        kernels: Number of kernels, copies and fills by name.
        copies: Number of copies and fills.
        seconds: Sum of all durations. Unit: s.
        host_launches: Number of host calls that launch one kernel each; None if the profiler does
            not list host calls.
        graph_launches: Number of host calls that launch a graph; None likewise.
    """

    kernels: Counter[str]
    copies: int
    seconds: float
    host_launches: int | None
    graph_launches: int | None

    @property
    def launches_without_kernel(self) -> int:
        """Number of launches without a kernel in the profile; 0 if there are graph launches."""
        if self.host_launches is None or self.graph_launches:
            return 0
        return max(0, self.host_launches - (self.kernels.total() - self.copies))


def profile_work(work: Callable[[], object], device: Device) -> DeviceEvents:
    """Run `work` once under the profiler, from an idle device to an idle device."""
    device.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
        device.synchronize()
    # The public list of events builds a tree first, which takes forty times as long.
    results = profiler.profiler.kineto_results if profiler.profiler else None
    return sort_events(results.events() if results else [])


def sort_events(events: Iterable[Any]) -> DeviceEvents:
    """Sort events of Kineto into kernels, copies and launches.

    Args:
        events: Events of ``torch._C._autograd``. Events without an activity type are classified by
            name, ranges of the host by the names of user annotations.
    """
    listed = list(events)
    cuda = torch.autograd.DeviceType.CUDA
    on_device = [event for event in listed if event.device_type() == cuda]
    on_host = [event for event in listed if event.device_type() != cuda]
    ranges = {event.name() for event in on_host if event.is_user_annotation()}
    kernels: Counter[str] = Counter()
    copies, nanoseconds = 0, 0
    for event in on_device:
        kind = _device_activity(event, ranges)
        if kind == _KERNEL or kind in _COPIES:
            kernels[event.name()] += 1
            copies += kind in _COPIES
            nanoseconds += event.duration_ns()
    calls = [event for event in on_host if _is_host_call(event)]
    lists_host_calls = bool(calls)
    return DeviceEvents(
        kernels,
        copies,
        nanoseconds / 1e9,
        _outermost(calls, _LAUNCH) if lists_host_calls else None,
        _outermost(calls, _GRAPH_LAUNCH) if lists_host_calls else None,
    )


def _activity(event: Any) -> str:
    """Return the activity type of an event; empty if this version of torch has none."""
    read = getattr(event, "activity_type", None)
    return str(read() or "") if read else ""


def _device_activity(event: Any, ranges: set[str]) -> str:
    if event.is_user_annotation():
        return ""
    if activity := _activity(event):
        return activity
    name = event.name()
    if name in ranges or _OTHER_NAMES.match(name):
        return ""
    return "gpu_memcpy" if name.startswith(_COPY_NAMES) else _KERNEL


def _is_host_call(event: Any) -> bool:
    if activity := _activity(event):
        return activity in _HOST_CALLS
    return bool(_HOST_NAMES.match(event.name()))


def _outermost(calls: Iterable[Any], name: re.Pattern[str]) -> int:
    """Count calls whose name matches; nested calls on one thread are a single launch."""
    count = 0
    inside_until: dict[int, int] = {}
    for event in sorted(calls, key=lambda event: (event.start_ns(), -event.duration_ns())):
        if not name.match(event.name()):
            continue
        thread, start = event.start_thread_id(), event.start_ns()
        if start < inside_until.get(thread, 0):
            continue
        count += 1
        inside_until[thread] = start + event.duration_ns()
    return count
