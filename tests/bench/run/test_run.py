"""Sweeps with real processes: isolation, statuses, resumption, write errors."""

import json
import os
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import HANG_S
from support.records import valid_records
from support.third_party import install

from bench.cli import main
from bench.records.origin import GitState
from bench.run.isolation import Ended
from bench.run.runner import case_environment

ROOT = Path(__file__).resolve().parents[3]
QUICK = "warmup_steps = 0\ntimed_steps = 1\ncounts = false\n"


@pytest.fixture
def toys(tmp_path):
    folder = tmp_path / "toys"
    folder.mkdir()
    return install(folder)


def write_sweep(folder, axes, protocol=""):
    path = folder / "toy.toml"
    path.write_text(
        f'[protocol]\n{QUICK}{protocol}\n[[case]]\nworkload = "toy"\naxes = {axes}\n',
        encoding="utf-8",
    )
    return path


def records_of(folder):
    path = folder / "results/runs/toy/records.jsonl"
    return valid_records(path) if path.exists() else []


def case_processes(folder):
    """Return the command lines of living case processes whose temporary files are in `folder`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"bench.run.case {folder}" in line:
            lines.append(line)
    return lines


EXPECTED = {
    "good": ("ok", None),
    "nan": ("ok", None),
    "noise": ("ok", None),
    "raise": ("crash", "RuntimeError: the layer is unhappy"),
    "segfault": ("crash", "killed by SIGSEGV"),
    "exit": ("crash", "ended with status 7; it last said: I give up"),
    "quit": ("crash", "ended without a result"),
    # Others that are malformed: tests/bench/run/test_verdict.py.
    "garbage": ("crash", "its result is not JSON"),
    "memory error": ("oom", "MemoryError: too much was asked"),
    "eat": ("oom", "exceeded the limit of 1 GiB"),
    "leave a daemon": ("ok", None),
    "unsupported": ("unsupported", "this needs a moon"),
    "forbidden": ("blocked", "not for you"),
}


def test_every_misbehaviour_becomes_a_record_and_the_sweep_goes_on(foldperf, tmp_path, toys):
    sweep = write_sweep(
        tmp_path,
        f"{{ behaviour = {json.dumps(list(EXPECTED))} }}",
        "memory_limit_gib = 1\n",
    )
    done = foldperf("run", sweep, paths=[toys], check=2, TMPDIR=str(tmp_path))
    found = {record["workload"]["config"]["behaviour"]: record for record in records_of(tmp_path)}
    assert set(found) == set(EXPECTED)
    for behaviour, (status, reason) in EXPECTED.items():
        record = found[behaviour]
        assert record["status"] == status, (behaviour, record["reason"])
        assert reason is None or reason in record["reason"], behaviour
    assert found["nan"]["outcome"] == {"loss": None}
    assert found["good"]["metrics"]["step_time_s"]["value"] > 0
    assert "Traceback" not in done.stderr
    assert not case_processes(tmp_path), "not even one that left its session"
    again = foldperf("run", sweep, paths=[toys], check=2)
    assert "0 ran now" in again.stdout
    assert len(records_of(tmp_path)) == len(EXPECTED)
    retried = foldperf("run", sweep, "--retry", "blocked", "unsupported", paths=[toys], check=2)
    assert "2 ran now" in retried.stdout
    assert len(records_of(tmp_path)) == len(EXPECTED)


def test_case_that_hangs_ends_at_its_limit_with_its_children(foldperf, tmp_path, toys):
    sweep = write_sweep(tmp_path, '{ behaviour = ["hang", "hang with children"] }')
    done = foldperf("run", sweep, "--timeout", "8", paths=[toys], check=2, TMPDIR=str(tmp_path))
    records = records_of(tmp_path)
    assert [record["reason"] for record in records] == ["no result within 8 s"] * 2
    assert {record["status"] for record in records} == {"timeout"}
    assert done.stdout.splitlines()[-1].startswith("2 of 2 cases of toy are not measured: ")
    assert not case_processes(tmp_path)


def test_kills_leave_one_valid_record_per_case(tmp_path, toys, command_server):
    sizes = [*range(1, 13)]
    sweep = write_sweep(tmp_path, f"{{ tokens = {sizes} }}")
    where = {"folder": tmp_path, "paths": [toys], "TMPDIR": str(tmp_path)}
    moments, kills = random.Random(7), 0
    for number in range(6):
        run = command_server.start(["run", sweep], **where)
        # Every other kill meets a case in flight, however slow the machine is.
        while number % 2 and not case_processes(tmp_path) and run.is_running():
            time.sleep(0.01)
        moment = time.monotonic() + moments.uniform(0.0, 0.5)
        while time.monotonic() < moment and run.is_running():
            time.sleep(0.01)
        if not run.is_running():
            run.wait()
            break
        run.kill()
        kills += 1
    assert kills > 2
    deadline = time.monotonic() + HANG_S
    while case_processes(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not case_processes(tmp_path), "a case outlived the sweep that started it"
    assert command_server.run(["run", sweep], **where).returncode == 0
    records = records_of(tmp_path)
    assert sorted(record["workload"]["config"]["tokens"] for record in records) == sizes
    assert len({record["key"] for record in records}) == len(sizes)
    assert {record["status"] for record in records} == {"ok"}


def test_order_is_random_and_the_seeds_follow_the_replicates(foldperf, tmp_path, toys):
    sweep = write_sweep(tmp_path, "{ tokens = [1, 2] }", "replicates = 2\nseed = 5\n")
    foldperf("run", sweep, paths=[toys], check=0)
    records = records_of(tmp_path)
    order = [(r["workload"]["config"]["tokens"], r["replicate"]) for r in records]
    assert sorted(order) == [(n, r) for n in (1, 2) for r in (0, 1)]
    assert order != sorted(order)
    assert all(r["protocol"]["seed"] == 5 + r["replicate"] for r in records)
    listed = foldperf("run", sweep, "--dry-run", paths=[toys], check=0).stdout.splitlines()
    assert len(listed) == 4


def test_case_that_ended_at_a_limit_runs_again_under_another(foldperf, tmp_path, toys):
    axes = '{ behaviour = ["good", "memory error"] }'
    foldperf("run", write_sweep(tmp_path, axes, "timeout_s = 100\n"), paths=[toys], check=0)
    wider = write_sweep(tmp_path, axes, "timeout_s = 200\n")
    assert "1 ran now" in foldperf("run", wider, paths=[toys], check=0).stdout
    assert "0 ran now" in foldperf("run", wider, paths=[toys], check=0).stdout
    assert len(records_of(tmp_path)) == 2


def test_case_runs_again_in_another_environment_or_with_another_third_party_source(
    foldperf, tmp_path, toys
):
    sweep = write_sweep(tmp_path, "{ tokens = [1] }")
    foldperf("run", sweep, paths=[toys], check=0)
    again = foldperf("run", sweep, paths=[toys], check=0, OMP_NUM_THREADS="2")
    assert "1 ran now" in again.stdout
    module = toys / "toys.py"
    module.write_text(module.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    assert "1 ran now" in foldperf("run", sweep, paths=[toys], check=0).stdout
    one, _, two = records_of(tmp_path)
    assert one["workload"]["source_sha256"] != two["workload"]["source_sha256"]


def test_records_of_uncommitted_source_run_again_when_it_is_committed(tmp_path, monkeypatch):
    sweep = tmp_path / "toy.toml"
    sweep.write_text(
        f'[protocol]\n{QUICK}[[case]]\nworkload = "operators"\n'
        'axes = { operator = "layer_norm", preset = "tiny", tokens = 8 }\n',
        encoding="utf-8",
    )

    def run_isolated(command, **_):
        """Stand-in for a case process."""
        content = {"status": "crash", "reason": "it did"}
        Path(f"{command[-1]}.0").write_text(json.dumps(content), encoding="utf-8")
        return Ended(0, None, 1.0, 0, "")

    monkeypatch.setattr("bench.run.runner.run_isolated", run_isolated)
    clean = GitState(sha="0" * 40, dirty=False)
    command = ["run", str(sweep), "--results", str(tmp_path / "results")]
    command += ["--store", str(tmp_path / "store")]
    dirty = replace(clean, dirty=True)
    for state, ran in ((dirty, True), (dirty, False), (clean, True), (dirty, False)):
        monkeypatch.setattr("bench.records.provenance.git_state", lambda state=state: state)
        known = {record["run_id"] for record in records_of(tmp_path)}
        assert main(command) == 2
        (record,) = records_of(tmp_path)
        assert (record["run_id"] not in known) == ran
    assert record["git"]["dirty"] is False


@pytest.mark.parametrize("searched", [True, False])
def test_case_searches_the_working_folder_only_when_the_sweep_does(tmp_path, monkeypatch, searched):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    path = [each for each in sys.path if each not in {"", str(tmp_path)}]
    monkeypatch.setattr(sys, "path", [*([str(tmp_path)] if searched else []), *path])
    environment = case_environment(1, 2)
    assert environment["PYTHONSAFEPATH"] == "1", "else Python puts it first by itself"
    folders = environment["PYTHONPATH"].split(os.pathsep)
    assert folders == [str(ROOT), "/of/the/user", *([str(tmp_path)] if searched else [])]


def test_case_finds_an_installed_package_after_the_standard_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(ROOT))
    assert case_environment(1, 2)["PYTHONPATH"] == ""


class TestStorage:
    def test_folder_that_cannot_be_created_is_an_error_of_one_line(self, foldperf, tmp_path, toys):
        (tmp_path / "file").write_text("", encoding="utf-8")
        sweep = write_sweep(tmp_path, "{ tokens = [1] }")
        done = foldperf("run", sweep, "--results", "file/x", paths=[toys], check=2)
        assert done.stderr.splitlines()[-1].startswith("foldperf: file/x/runs/toy: Not a directory")
        assert "Traceback" not in done.stderr

    def test_full_disk_is_an_error_of_one_line_and_earlier_records_are_intact(
        self, foldperf, tmp_path, toys
    ):
        sweep = write_sweep(tmp_path, "{ tokens = [1, 2, 3] }")
        # One record fits, and two do not.
        done = foldperf("run", sweep, paths=[toys], check=2, largest_file=16_000)
        assert "Traceback" not in done.stderr
        assert "cannot be written: File too large" in done.stderr.splitlines()[-1]
        assert len(records_of(tmp_path)) == 1

    def test_full_disk_while_dropping_records_loses_none(self, foldperf, tmp_path, toys):
        sweep = write_sweep(tmp_path, '{ behaviour = ["raise", "good"] }')
        foldperf("run", sweep, paths=[toys], check=2)
        # What the command says is shorter than its records.
        done = foldperf("run", sweep, "--retry", "crash", paths=[toys], check=2, largest_file=2_000)
        assert "Traceback" not in done.stderr
        assert "records cannot be dropped: File too large" in done.stderr.splitlines()[-1]
        assert len(records_of(tmp_path)) == 2

    def test_two_runs_do_not_mix(self, foldperf, tmp_path, toys):
        from bench.records.record_file import RecordFile

        sweep = write_sweep(tmp_path, "{ tokens = [1] }")
        with RecordFile(tmp_path / "results/runs/toy/records.jsonl").locked():
            done = foldperf("run", sweep, paths=[toys], check=2)
        assert "another run is writing here" in done.stderr
