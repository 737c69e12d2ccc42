"""The exit status of real processes: pipes that nobody reads, a full disk, closed descriptors, a
user without a home."""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support.records import valid_records

from bench.cli import main

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """
[protocol]
warmup_steps = 0
timed_steps = 1
counts = false
energy_s = 0.1
[[case]]
workload = "operators"
axes = { operator = "layer_norm", preset = "tiny", tokens = [4, 8] }
"""
GATE = "gate --cases sweep.toml --baseline baseline.json --jobs 1"
UID = "54321"
# Another user, who may read the interpreter wherever it is installed.
STRANGER = (
    *("setpriv", "--reuid", UID, "--regid", UID, "--clear-groups"),
    *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
)
BARE = {
    "PYTHONPATH": str(ROOT),
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with a sweep of two cases, and a baseline that the source does not meet."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    with contextlib.chdir(folder):
        assert main([*GATE.split(), "--bless", "--reason", "a test"]) == 0
    table = json.loads((folder / "baseline.json").read_bytes())
    for case in table["cases"].values():
        case["peaks"] = {phase: nbytes + 1 for phase, nbytes in case["peaks"].items()}
    (folder / "baseline.json").write_text(json.dumps(table), encoding="utf-8")
    return folder


@pytest.fixture
def folder(inputs, tmp_path):
    """A working folder with the inputs."""
    return shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)


def shell(command, folder, environment=None, user=()):
    """Run a line of bash in which `foldperf` is the command line; its output and errors."""
    program = shlex.join([sys.executable, "-m", "bench"])
    done = subprocess.run(
        [*user, "bash", "-c", command.replace("foldperf", program)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} if environment is None else environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stdout, done.stderr


def test_failing_gate_is_1_and_writes_its_files_when_one_line_is_read(folder):
    gate = f"{GATE} --json --junit x.xml --markdown x.md"
    output, _ = shell(f"foldperf {gate} | head -1; echo ${{PIPESTATUS[0]}}", folder)
    assert output == "{\n1\n"
    assert ET.parse(folder / "x.xml").getroot().get("failures") == "2"
    assert "FAIL" in (folder / "x.md").read_text(encoding="utf-8")


def test_failing_gate_is_1_when_the_disk_is_full(folder):
    output, error = shell(f"foldperf {GATE} > /dev/full; echo $?", folder)
    assert output == "1\n"
    assert error == "foldperf: the standard output cannot be written: No space left on device\n"


def test_failing_gate_is_1_when_its_descriptors_are_closed(folder):
    output, _ = shell(f"foldperf {GATE} <&- >&- 2>&-; echo $?", folder)
    assert output == "1\n"


def test_sweep_records_all_its_cases_when_nobody_reads(folder):
    sweep = "foldperf run sweep.toml --store none"
    output, _ = shell(f"{sweep} 2>&1 | true; echo ${{PIPESTATUS[0]}}", folder)
    assert output == "0\n"
    # Its file of records gets no number of a closed descriptor, into which others print.
    output, _ = shell(f"{sweep} <&- >&- 2>&-; echo $?", folder)
    assert output == "0\n"
    records = valid_records(folder / "results" / "runs" / "sweep" / "records.jsonl")
    assert [record["status"] for record in records] == ["ok", "ok"]


def test_doctor_is_2_when_the_disk_is_full(tmp_path):
    doctor = "foldperf doctor --device cpu --store none"
    output, error = shell(f"{doctor} > /dev/full; echo $?", tmp_path)
    assert output == "2\n"
    assert error == "foldperf: the standard output cannot be written: No space left on device\n"


@pytest.fixture
def stranger(folder):
    """Run a line of bash as a user without passwd entry, home and environment, in ASCII."""
    if os.getuid():
        pytest.skip("only root can become another user")
    if not shutil.which("setpriv"):
        pytest.skip("setpriv is not installed")
    for path in (folder, *folder.parents):
        if path.stat().st_uid == os.getuid() and path.is_relative_to(folder.parent):
            path.chmod(0o777)

    def run(command):
        return shell(command, folder, BARE, (shutil.which("setpriv"), *STRANGER[1:]))

    return run


def test_user_without_home_gets_the_gates_verdict(stranger):
    output, error = stranger(f"foldperf {GATE} | cat; echo ${{PIPESTATUS[0]}}")
    assert output.startswith("FAIL: ")
    assert output.endswith("\n1\n")
    assert error == ""


def test_user_without_home_gets_the_doctors_findings(stranger):
    output, error = stranger("foldperf doctor; echo $?")
    assert output.endswith("\n0\n")
    assert f"prepared  unknown: user {UID} has no home folder" in output
    assert error == ""


def test_sweep_with_inputs_names_the_missing_variable_for_a_user_without_home(stranger):
    output, error = stranger("foldperf run demo; echo $?")
    assert output == "2\n"
    assert error == (
        f"foldperf: user {UID} has no home folder, and HOME is not set: set FOLDPERF_HOME to a "
        "folder for downloads and prepared inputs\n"
    )
