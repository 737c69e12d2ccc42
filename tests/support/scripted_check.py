"""Worker process of a device check with scripted stages.

Run as ``python -m support.scripted_check REQUEST``. The environment variable SCRIPT has the
behaviour of stages by name, as JSON. Stages that are not named succeed at once.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from bench.check_device import plan, worker
from bench.check_device.check import FailedError, LostDeviceError, OutOfTimeError, SkippedError

SCRIPT = json.loads(os.environ["SCRIPT"])


def run(stage, check):
    with (check.folder / "ran.txt").open("a", encoding="utf-8") as file:
        file.write(f"{stage.name} {os.getpid()}\n")
    check.say(f"{stage.name} begins")
    match SCRIPT.get(stage.name):
        case "hang":
            time.sleep(1_000)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise RuntimeError("what a library says")
        case "skip":
            raise SkippedError("it cannot run here")
        case "fail":
            raise FailedError("wrong", {"wrong": ["one"]})
        case "late":
            raise OutOfTimeError("1 of 2 cases are done")
        case "lose":
            lost = check.folder / "lost"
            if not lost.exists():
                lost.touch()
                raise LostDeviceError("the device no longer responds")
    return {"stage": stage.name}


plan.Stage.run = run
if __name__ == "__main__":
    assert Path(worker.__file__).exists()
    sys.exit(worker.main(*sys.argv[1:]))
