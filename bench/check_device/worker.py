"""Process that runs the stages: ``python -m bench.check_device.worker REQUEST``.

A stage that ends early, or fails, leaves its reason in ``stages.json``, and the next one runs. The
supervisor ends a stage that hangs.
"""

import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.check_device.check import (
    HOST,
    REHEARSAL,
    Check,
    FailedError,
    LostDeviceError,
    OutOfTimeError,
    Sizes,
    SkippedError,
)
from bench.check_device.plan import STAGES, Stage, deadline
from bench.check_device.progress import Stages
from bench.check_device.recorder import Recorder
from bench.devices import Device
from bench.devices.device import Description
from bench.devices.scripted import ScriptedDevice
from bench.errors import StorageError
from bench.run.sweep import digest
from refsys.call_stack import call_with_room
from refsys.processes import die_with_parent

LOG = "check.log"
# Exit status of a process whose device no longer responds; a new process may succeed.
LOST_DEVICE = 75
# Period of a simulated device's energy counter: energy windows last 20 periods.
_REHEARSED_TICK_S = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Request of the supervisor, as JSON.

    Attributes:
        parent: Number of the requesting process.
        folder: Folder of the check.
        store: Folder of prepared inputs.
        device: auto, cpu or cuda.
        rehearse: Vendor that the host simulates; empty for a real device.
        end: When the check has to end, in seconds since the epoch.
        stages: Names of the stages to run.
        interpreters: Python interpreter of each baseline that has one of its own.
    """

    parent: int
    folder: str
    store: str
    device: str
    rehearse: str
    end: float
    stages: tuple[str, ...]
    interpreters: dict[str, str]


class RehearsedDevice(ScriptedDevice):
    """Scripted device whose name marks it as a rehearsal."""

    def describe(self) -> Description:
        """See `Device`."""
        description = super().describe()
        return replace(description, name=f"{description.name} (rehearsal on a CPU)")


def main(path: str) -> int:
    """Run the stages of a request; return status 0 once all are done, now or before."""
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    request = Request(**table | {"stages": tuple(table["stages"])})
    die_with_parent(request.parent)
    folder = Path(request.folder)
    device, devices, sizes = _device(request)
    recorder = Recorder(folder, device)
    log = folder / LOG

    def say(line: str) -> None:
        with log.open("a", encoding="utf-8") as file:
            file.write(" ".join(line.split()) + "\n")

    check = Check(
        device=device,
        devices=devices,
        is_rehearsal=bool(request.rehearse),
        sizes=sizes,
        recorder=recorder,
        folder=folder,
        store=Path(request.store),
        interpreters={name: Path(python) for name, python in request.interpreters.items()},
        say=say,
    )
    identity = digest([recorder.identity, repr(sizes), request.rehearse, request.interpreters])
    with recorder.file.locked():
        recorder.load()
        stages = [stage for stage in STAGES if stage.name in request.stages]
        try:
            run_stages(check, stages, Stages(folder, identity), request.end)
        except LostDeviceError as error:
            say(f"{check.stage}: {error}")
            return LOST_DEVICE
    return 0


def _device(request: Request) -> tuple[Device, int, Sizes]:
    """Return the device, how many there are, and the sizes of the check."""
    import torch

    from bench.devices import find_device

    if request.rehearse:
        return RehearsedDevice(request.rehearse, tick_s=_REHEARSED_TICK_S), 2, REHEARSAL
    device = find_device(request.device)
    if device.torch_device.type == "cpu":
        return device, 0, HOST
    return device, torch.cuda.device_count(), Sizes()


def run_stages(check: Check, stages: Sequence[Stage], states: Stages, end: float) -> None:
    """Run the stages that have not come to an end, each until its deadline.

    Args:
        check: Device, sizes and records.
        stages: Stages in order.
        states: States of the stages.
        end: Time at which the check has to end, by its clock.

    Raises:
        LostDeviceError: The device no longer responds; the stage is still noted as running.
        StorageError: a record or a state cannot be written.
    """
    pending = [stage for stage in stages if not states.is_final(stage.name)]
    while pending:
        stage, now = pending[0], check.clock()
        check.stage, check.deadline = stage.name, deadline(stage, pending, now, end)
        states.start(stage.name, now, check.deadline)
        try:
            findings = stage.run(check)
        except SkippedError as ended:
            states.end(stage.name, check.clock(), "skipped", str(ended), ended.findings)
        except FailedError as ended:
            states.end(stage.name, check.clock(), "failed", str(ended), ended.findings)
        except OutOfTimeError as ended:
            states.end(stage.name, check.clock(), "timeout", str(ended), ended.findings)
        except (LostDeviceError, StorageError):
            raise
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
            states.end(stage.name, check.clock(), "crash", reason)
        else:
            states.end(stage.name, check.clock(), "ok", findings=_as_json(findings))
        pending.pop(0)


def _as_json(findings: Any) -> Any:
    """Return the findings of a stage as JSON has them: a number that is not finite is null."""
    text = json.dumps(findings, default=str)
    return json.loads(text, parse_constant=lambda _name: None)


if __name__ == "__main__":
    sys.exit(call_with_room(main, *sys.argv[1:]))
