"""Device checks as processes: hanging stages are cut, and unfinished ones run again."""

import json
import subprocess
import sys
import time

import pytest
from support.forked_modules import ForkingPopen

from bench.check_device.plan import NAMES
from bench.check_device.progress import STAGES, Stages
from bench.check_device.supervisor import Supervisor, _locked
from bench.check_device.worker import Request
from bench.errors import BenchError, StorageError
from bench.progress import Progress

WORKER = (sys.executable, "-m", "support.scripted_check")


@pytest.fixture(autouse=True)
def forked(monkeypatch):
    """Fork workers: importing their libraries would take longer than the scripted stages."""
    monkeypatch.setattr(subprocess, "Popen", ForkingPopen)


def supervisor(folder, script, *, budget_s=60.0, command=WORKER):
    request = Request(
        parent=0,
        folder=str(folder),
        store=str(folder),
        device="cpu",
        rehearse="nvidia",
        end=time.time() + budget_s,
        stages=NAMES,
        interpreters={},
    )
    variables = {"SCRIPT": json.dumps(script), "FOLDPERF_HOME": str(folder / "home")}
    return Supervisor(request, Progress(len(NAMES), "check"), command, variables)


def ran(folder):
    """Return (stage, process) of each stage that began, and forget them."""
    path = folder / "ran.txt"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    path.unlink()
    return [tuple(line.split()) for line in lines]


def test_supervisor_notes_every_end_and_reruns_unfinished_stages(tmp_path, capsys):
    script = {
        "compilation": "hang",
        "accuracy": "kill",
        "calibration": "raise",
        "kernels": "lose",
        "baselines": "skip",
        "tuning": "fail",
        "step": "late",
    }
    states = supervisor(tmp_path, script, budget_s=100.0).run()
    assert {name: state.status for name, state in states.items()} == {
        "versions": "ok",
        "compilation": "timeout",
        "accuracy": "crash",
        "calibration": "crash",
        "kernels": "ok",
        "baselines": "skipped",
        "published": "ok",
        "tuning": "failed",
        "step": "timeout",
        "communication": "ok",
    }
    assert states["compilation"].reason == "overran its deadline and was ended"
    assert states["compilation"].seconds < 30
    assert "SIGKILL" in states["accuracy"].reason
    assert states["calibration"].reason == "RuntimeError: what a library says"
    assert states["tuning"].found == {"wrong": ["one"]}
    first = ran(tmp_path)
    assert [name for name, _ in first] == [*NAMES[:5], "kernels", *NAMES[5:]]
    assert len({process for _, process in first}) == 4, "one process until a stage ends it"
    lines = capsys.readouterr().err
    for name in NAMES:
        assert f"  {name} begins" in lines
        assert f"{states[name].status:<8} {name} (" in lines

    again = supervisor(tmp_path, {}).run()
    assert {state.status for name, state in again.items() if name != "tuning"} == {"ok", "skipped"}
    assert [name for name, _ in ran(tmp_path)] == ["compilation", "accuracy", "calibration", "step"]

    table = json.loads((tmp_path / STAGES).read_bytes())
    del table["stages"]["communication"]
    # The state after the check was killed in this stage; its deadline has long passed.
    table["stages"]["step"] |= {"status": "running", "started": 1.0, "deadline": 2.0, "found": {}}
    (tmp_path / STAGES).write_text(json.dumps(table), encoding="utf-8")
    last = supervisor(tmp_path, {}).run()
    assert last["step"].status == last["communication"].status == "ok"
    assert [name for name, _ in ran(tmp_path)] == ["step", "communication"]


def test_process_that_ends_before_its_first_stage_is_an_error(tmp_path):
    command = (sys.executable, "-c", "import sys; sys.exit('no such library')")
    with pytest.raises(BenchError, match="ended with status 1: no such library"):
        supervisor(tmp_path, {}, command=command).run()


def test_two_checks_do_not_share_a_folder(tmp_path):
    with _locked(tmp_path), pytest.raises(StorageError, match="another device check"):
        supervisor(tmp_path, {}).run()
    assert Stages(tmp_path).running() is None
