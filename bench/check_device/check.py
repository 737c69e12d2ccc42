"""State that the stages of a device check share: device, sizes, deadline, records."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.check_device.recorder import Measured, Recorder
from bench.devices import Device, Unavailable
from bench.errors import BenchError
from bench.records.record import Record
from refsys.ops.backend import BASELINES
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError
from workloads.workload import Config, ExecutionContext, Workload

# A case seldom takes longer than this multiple of the median of earlier ones.
_MARGIN = 1.5


class StageEnd(BenchError):
    """End of a stage before its work is done: no time, no way to run here, or a failed check.

    Attributes:
        findings: Findings so far.
    """

    def __init__(self, reason: str, findings: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.findings = findings or {}


class OutOfTimeError(StageEnd):
    """There is no time for the remaining cases of a stage."""


class SkippedError(StageEnd):
    """The stage cannot run here."""


class FailedError(StageEnd):
    """The check of a stage failed."""


class LostDeviceError(BenchError):
    """The device no longer responds in this process, as after an illegal access of a kernel."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a check.

    Attributes:
        preset: Model whose widths operators have.
        operators: Number of operators that are checked, the heaviest first.
        backend: Backend of this project whose kernels are checked.
        accuracy: Numbers of tokens at which operators are compared with float64.
        bits: Number of tokens at which two runs are compared bit by bit.
        kernels: Numbers of tokens at which kernels are timed.
        baselines: Numbers of tokens at which other implementations are timed.
        baseline_backends: Backends of those implementations.
        published: Numbers of tokens at which a baseline's times are published.
        step: Number of tokens of the full training step.
        step_axes: Further axes of the step.
        counts: True if kernels and operators of the step are counted and its peak is predicted.
        samples: Timed samples of each figure.
        sample_s: Shortest sample. Unit: s.
        energy_s: Energy window of the full step. Unit: s.
        idle_s: Time without work before and after calibration. Unit: s.
        calibration: Size of each quantity of the calibration workload.
        tuned: Number of kernels that are tuned.
        tuned_operators: Operators whose kernels are tuned; the heaviest of all if empty.
        tuned_precision: Dtype table that they are tuned for.
        rounds: Number of rounds in which two candidates of tuning alternate.
        message_mib: Size of each collective. Unit: MiB.
    """

    preset: str = "full"
    operators: int = 1000
    backend: str = "triton"
    accuracy: tuple[int, ...] = (128, 129)
    bits: int = 384
    kernels: tuple[int, ...] = (384, 768, 1024)
    baselines: tuple[int, ...] = (384, 768)
    baseline_backends: tuple[str, ...] = ("compiled", "reference", *BASELINES)
    published: tuple[int, ...] = (512, 768, 1024)
    step: int = 384
    step_axes: Mapping[str, object] = field(default_factory=dict)
    counts: bool = True
    samples: int = 20
    sample_s: float = 0.01
    energy_s: float = 20.0
    idle_s: float = 3.0
    calibration: Mapping[str, int] = field(
        default_factory=lambda: {"copy": 1024, "l2_copy": 16, "product": 8192, "exponentials": 64}
    )
    tuned: int = 6
    tuned_operators: tuple[str, ...] = ()
    tuned_precision: str = "bfloat16"
    rounds: int = 5
    message_mib: tuple[int, ...] = (1, 16, 256)


# Sizes that take seconds on a host.
HOST = Sizes(calibration={"copy": 256, "l2_copy": 1, "product": 1024, "exponentials": 64})
# For a rehearsal on the host, which runs the control flow alone.
REHEARSAL = Sizes(
    preset="tiny",
    operators=3,
    backend="reference",
    accuracy=(8, 9),
    bits=12,
    kernels=(8, 12),
    baselines=(8,),
    baseline_backends=("reference", "sdpa", "cuequivariance"),
    published=(8, 12),
    step=8,
    step_axes={
        **{"precision": "float32", "samples": 1, "alignment_rows": 2, "checkpointing": False},
        **{"cycles": 1, "workers": 0},
    },
    counts=False,
    samples=3,
    sample_s=0.001,
    energy_s=0.5,
    idle_s=0.5,
    calibration={"copy": 1, "l2_copy": 1, "product": 64, "exponentials": 1},
    tuned=1,
    tuned_operators=("layer_norm_linear",),
    tuned_precision="float32",
    rounds=1,
    message_mib=(1,),
)


@dataclass(frozen=True, slots=True)
class Item:
    """Case of a stage.

    Attributes:
        title: Title in one line.
        workload: Name of the workload.
        config: Every axis of the workload.
        measure: Function that measures the case.
        salt: Further part of its identity, such as the interpreter that runs it.
    """

    title: str
    workload: str
    config: Config
    measure: Callable[[], Measured]
    salt: str = ""


@dataclass
class Check:
    """Device check, in the process that runs its stages.

    Attributes:
        device: Device under test.
        devices: Number of devices.
        is_rehearsal: True if the host stands in for the device.
        sizes: See `Sizes`.
        recorder: Recorder of the cases.
        folder: Folder of the check.
        store: Folder of prepared inputs.
        interpreters: Python interpreter of each baseline that needs an environment of its own.
        say: Function that prints a line.
        stage: Name of the stage that runs.
        deadline: Time at which the stage has to end, by `clock`.
        clock: Seconds since the epoch.
    """

    device: Device
    devices: int
    is_rehearsal: bool
    sizes: Sizes
    recorder: Recorder
    folder: Path
    store: Path
    interpreters: Mapping[str, Path] = field(default_factory=dict)
    say: Callable[[str], None] = print
    stage: str = ""
    deadline: float = 0.0
    clock: Callable[[], float] = time.time

    @property
    def is_accelerator(self) -> bool:
        """Return True if the device is an accelerator, or stands in for one."""
        return self.is_rehearsal or self.device.torch_device.type != "cpu"

    def need_accelerator(self, what: str) -> None:
        """End the stage where there is no accelerator.

        Raises:
            SkippedError: the device is the host.
        """
        if not self.is_accelerator:
            raise SkippedError(f"{what} need an accelerator, and torch sees none")

    def setting(self) -> ExecutionContext:
        """Return the device and the store for which programs are built."""
        return ExecutionContext(device=self.device.torch_device, store=self.store)

    def remaining(self) -> float:
        """Return the seconds that the stage has left."""
        return self.deadline - self.clock()

    @staticmethod
    def workload(part: str) -> Workload:
        """Return the workload that serves a part of device checks; see `Workload.device_check`."""
        workloads = catalogue().workloads.values()
        return next(workload for workload in workloads if workload.device_check == part)

    def run(self, items: Sequence[Item]) -> list[Record]:
        """Measure cases in order, those without a record, and return the records of all.

        A case that fails has a record that says why, and the next one runs.

        Raises:
            OutOfTimeError: the time left does not suffice for the next case.
        """
        records: list[Record] = []
        durations: list[float] = []
        for number, item in enumerate(items):
            key = self.recorder.key(self.stage, item.workload, item.config, item.salt)
            if (record := self.recorder.get(key)) is None:
                needed = _MARGIN * median(durations) if durations else 0.0
                if self.remaining() <= needed:
                    raise OutOfTimeError(
                        f"{number} of {len(items)} cases are done; next would be {item.title}"
                    )
                start = self.clock()
                record = self._measure(item)
                durations.append(self.clock() - start)
                self.say(f"{self.stage} {number + 1}/{len(items)} {item.title}: {line_of(record)}")
            records.append(record)
        return records

    def _measure(self, item: Item) -> Record:
        started = datetime.now(UTC)
        measured = measured_or_reason(item.measure)
        record = self.recorder.append(
            self.stage, item.workload, item.config, measured, started, item.salt
        )
        if measured.status == "crash":
            self._require_answer(item)
        return record

    def _require_answer(self, item: Item) -> None:
        """Check that the device still responds after a case that crashed.

        Raises:
            LostDeviceError: it does not.
        """
        try:
            self.device.synchronize()
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise LostDeviceError(
                f"the device no longer responds after {item.title}: {reason}"
            ) from None


def measured_or_reason(measure: Callable[[], Measured]) -> Measured:
    """Return the result of a measurement, or the status and reason of its failure."""
    try:
        return measure()
    except (UnsupportedError, NotImplementedError, Unavailable) as error:
        return _failure("unsupported", str(error))
    except Exception as error:
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        reason = f"{type(error).__name__}: {error}"
        return _failure("oom" if out_of_memory else "crash", reason)


def _failure(status: str, reason: str) -> Measured:
    return Measured({}, None, status=status, reason=" ".join(reason.split())[:400] or "no reason")


def line_of(record: Record) -> str:
    """Return a record in a few words."""
    if record.status != "ok":
        return f"{record.status}: {record.reason}"
    figures = []
    for name, unit, factor in (
        ("device_time_s", "ms on the device", 1e3),
        ("step_time_s", "ms eager", 1e3),
        ("ratio_to_roofline", "times the roofline bound", 1),
        ("error_ratio", "times plain PyTorch's error", 1),
    ):
        value = record.value(name)
        if value is not None:
            figures.append(f"{factor * value:.3g} {unit}")
    return ", ".join(figures) or "ok"
