"""Times of phases: on an accelerator by events, which a step waits for once."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import refsys.training.train
from refsys.options import changed
from refsys.run_config import run_config
from refsys.training.stopwatch import EventTimer, HostTimer, phase_timer
from refsys.training.train import train

CONFIG = run_config(
    model="trunk",
    preset="tiny",
    entries=("1ubq", "8vkf"),
    tokens=24,
    alignment_rows=6,
    learning_rate=5e-3,
    warmup_steps=10,
    cycles=2,
)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
STEPS = 3


class Stream:
    """An accelerator's stream: it does nothing until it is waited for.

    Attributes:
        work: Seconds of each piece of work queued, in order.
        waits: Number of times that the host waited.
    """

    def __init__(self):
        self.work, self.waits = [], 0

    def event(self, enable_timing):
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, stream):
        self.stream, self.at, self.done = stream, None, False

    def record(self, stream):
        assert stream is self.stream
        self.at, self.done = len(stream.work), False

    def synchronize(self):
        self.stream.waits += 1
        for event in EVENTS:
            event.done |= event.at is not None and event.at <= self.at

    def elapsed_time(self, end):
        assert all((self.done, end.done)), "read before it was waited for"
        return 1e3 * sum(self.stream.work[self.at : end.at])


EVENTS = []


@pytest.fixture
def stream(monkeypatch):
    EVENTS.clear()
    stream = Stream()

    def event(enable_timing=False):
        EVENTS.append(stream.event(enable_timing))
        return EVENTS[-1]

    monkeypatch.setattr(torch.cuda, "Event", event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return stream


def test_phases_have_the_times_of_their_work(stream):
    timer = EventTimer(CUDA)
    for step in range(3):
        for name, seconds in (("forward", 1.0 + step), ("backward", 2.0)):
            with timer.phase(name):
                stream.work.append(seconds)
        assert stream.waits == step
        assert timer.read() == {"forward": 1.0 + step, "backward": 2.0}
    assert len(EVENTS) == 4, "events are reused"
    assert timer.read() == {}
    assert stream.waits == 3


def test_phase_left_out_of_a_step_has_no_time(stream):
    timer = EventTimer(CUDA)
    for names in (["a", "b"], ["b"]):
        for name in names:
            with timer.phase(name):
                stream.work.append(1.0)
        assert list(timer.read()) == names


def test_timer_follows_the_device():
    assert isinstance(phase_timer(CPU), HostTimer)
    assert isinstance(phase_timer(CUDA), EventTimer)


def test_host_phases_are_read_once():
    timer = HostTimer()
    with timer.phase("a"):
        pass
    assert timer.read()["a"] >= 0
    assert timer.read() == {}


class HostReads(TorchDispatchMode):
    """Counts the reads of single tensors by the host, each of which waits for the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += torch.Tag.data_dependent_output in function.tags
        return function(*args, **(kwargs or {}))


@pytest.fixture
def reads(monkeypatch):
    """The reads of all steps; batches are built outside of them."""
    mode, step = HostReads(), refsys.training.train._step

    def watched(*arguments):
        with mode:
            return step(*arguments)

    monkeypatch.setattr(refsys.training.train, "_step", watched)
    return mode


@pytest.mark.bits
def test_step_waits_once_and_has_the_same_bits(store, tmp_path, stream, reads, monkeypatch):
    steps, expected = [], []
    train(CONFIG, store, tmp_path / "host", steps=STEPS, on_step=expected.append)
    monkeypatch.setattr(refsys.training.train, "phase_timer", lambda device: EventTimer(CUDA))
    train(CONFIG, store, tmp_path / "events", steps=STEPS, on_step=steps.append)
    assert stream.waits == STEPS
    assert reads.count == 0
    assert [step.seconds.keys() for step in steps] == [step.seconds.keys() for step in expected]
    assert [replace(step, seconds={}) for step in steps] == [
        replace(step, seconds={}) for step in expected
    ]


@pytest.mark.bits
def test_full_model_waits_for_its_host_phase_alone(store, tmp_path, stream, reads, monkeypatch):
    """The permutation of labels reads the rollout; no other phase reads anything."""
    config = changed(CONFIG, model="alphafold3", tokens=16, samples=1, crop="spatial")
    by_phase, timer = {}, EventTimer(CUDA)

    def on_phase(step, name):
        by_phase[name] = reads.count - sum(by_phase.values())

    monkeypatch.setattr(refsys.training.train, "phase_timer", lambda device: timer)
    train(config, store, tmp_path, steps=1, on_phase=on_phase)
    forward = ["trunk", "rollout", "permutation", "diffusion"]
    assert list(by_phase) == [*forward, "backward", "optimizer"]
    # Each count is of what ran before its phase began: the permutation's is diffusion's.
    assert {name for name, count in by_phase.items() if count} <= {"diffusion"}
    assert reads.count == by_phase["diffusion"]
    assert stream.waits == 1
