"""Events of a profile: kernels, launches, lost kernels."""

import pytest
import torch

from bench.probes.device_events import sort_events

CUDA, CPU = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU


class Event:
    """Scripted event of Kineto; one without an activity type is of an older torch."""

    def __init__(self, name, where=CUDA, activity="kernel", start=0, ns=1000, annotation=None):
        self._name, self._where, self._start, self._ns = name, where, start, ns
        self._annotation = activity.endswith("user_annotation")
        if annotation is not None:
            self._annotation = annotation
        self._activity = activity

    def name(self):
        return self._name

    def device_type(self):
        return self._where

    def is_user_annotation(self):
        return self._annotation

    def start_ns(self):
        return self._start

    def duration_ns(self):
        return self._ns

    def start_thread_id(self):
        return 1

    def activity_type(self):
        return self._activity


class OldEvent(Event):
    """Event of a torch version without activity types."""

    activity_type = None


def host(name, start, activity="cuda_runtime", **more):
    return (name, CPU, activity, start, *more.values())


KERNELS = ("gemm", "gemm", "triton_poi_fused_add_0", "ncclDevKernel_AllReduce")
# Events on the device's timeline that are not work.
RANGES = ("Optimizer.step#Adam.step", "ProfilerStep#3", "record_param_comms", "my own range")
STEP = (
    *((name, CUDA, "kernel") for name in KERNELS),
    ("Memcpy HtoD (Pinned -> Device)", CUDA, "gpu_memcpy"),
    ("Memset (Device)", CUDA, "gpu_memset"),
    *((name, CUDA, "gpu_user_annotation", 0, 9000) for name in RANGES),
    *((name, CPU, "user_annotation", 0, 9000) for name in RANGES),
    ("Context Sync", CUDA, "cuda_sync"),
    ("aten::mm", CPU, "cpu_op", 0, 9000),
    ("aten::mm", CPU, "cpu_op", 0, 9000),
    *(host(name, 2000 * k) for k, name in enumerate(["cudaLaunchKernel", "cudaLaunchKernelExC"])),
    # The driver's part of the same launch, and a launch through the driver alone.
    ("cuLaunchKernelEx", CPU, "cuda_driver", 2100, 100),
    host("cuLaunchKernel", 6000, "cuda_driver"),
    host("cudaLaunchCooperativeKernel", 8000),
    *(host(name, 9500) for name in ["cudaMemcpyAsync", "cudaMemsetAsync", "cudaLaunchHostFunc"]),
    host("cudaDeviceSynchronize", 9600),
)


@pytest.mark.parametrize("kind", [Event, OldEvent])
def test_annotations_are_not_counted_as_kernels(kind):
    events = [kind(*event) for event in STEP]
    sorted_events = sort_events(events)
    assert sum(sorted_events.kernels.values()) == len(KERNELS) + 2
    assert not set(RANGES) & set(sorted_events.kernels)
    assert sorted_events.kernels["gemm"] == 2
    assert sorted_events.copies == 2
    assert sorted_events.seconds == pytest.approx(6e-6)
    assert (sorted_events.host_launches, sorted_events.graph_launches) == (4, 0)
    assert sorted_events.launches_without_kernel == 0


def test_range_of_an_older_profiler_is_recognized_by_the_hosts_range():
    """The device's copy of a range is not always marked as an annotation."""
    events = [
        OldEvent("gemm"),
        OldEvent("my own range", annotation=False),
        OldEvent("my own range", CPU, "user_annotation"),
    ]
    assert dict(sort_events(events).kernels) == {"gemm": 1}


@pytest.mark.parametrize(
    "event",
    [
        Event("outer range", activity="gpu_user_annotation", annotation=False),
        OldEvent("outer range", annotation=True),
        OldEvent("ProfilerStep#7", annotation=False),
        OldEvent("Context Sync", annotation=False),
    ],
    ids=["activity", "mark", "step", "wait"],
)
def test_range_that_began_before_the_profile_is_not_a_kernel(event):
    """In that case the host has no range of that name."""
    assert dict(sort_events([type(event)("gemm"), event]).kernels) == {"gemm": 1}


def test_graph_launch_hides_the_number_of_launches():
    events = [Event("gemm")] * 50 + [Event(*host("cudaGraphLaunch", 5))]
    sorted_events = sort_events(events)
    assert (sorted_events.host_launches, sorted_events.graph_launches) == (0, 1)
    assert sorted_events.launches_without_kernel == 0
    hip = [Event(*host(name, 2000 * k)) for k, name in enumerate(HIP)]
    assert (sort_events(hip).host_launches, sort_events(hip).graph_launches) == (4, 1)


HIP = (
    *("hipLaunchKernel", "hipModuleLaunchKernel", "hipExtModuleLaunchKernel"),
    *("hipLaunchCooperativeKernel", "hipGraphLaunch", "hipMemcpyAsync", "hipStreamSynchronize"),
)


def test_lost_kernel_is_counted():
    step = [Event(*event) for event in STEP]
    lost = sort_events([event for event in step if event.name() != "gemm"])
    assert lost.launches_without_kernel == 2


def test_launches_are_unknown_without_calls_of_the_host():
    sorted_events = sort_events([Event("gemm"), Event("aten::mm", CPU, "cpu_op")])
    assert (sorted_events.host_launches, sorted_events.graph_launches) == (None, None)
    assert sorted_events.launches_without_kernel == 0


def test_events_of_a_real_profile_are_read():
    """A profile on the CPU has no kernels; ranges of the host are not counted."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with (
        torch.profiler.profile(activities=activities) as profiler,
        torch.profiler.record_function("my own range"),
    ):
        torch.ones(4, 4) @ torch.ones(4, 4)
    events = profiler.profiler.kineto_results.events()
    assert any(event.name() == "my own range" for event in events)
    sorted_events = sort_events(events)
    assert not sorted_events.kernels
    assert sorted_events.host_launches is None
