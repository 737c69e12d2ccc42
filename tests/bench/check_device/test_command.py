"""``foldperf check-device`` from the command line: a rehearsal as each vendor, and its table."""

import json
import sys

import pytest
from support.records import parsed, valid_records

from analysis.report import write_report
from bench.check_device.plan import NAMES
from bench.check_device.progress import StageState
from bench.check_device.table import report_lines
from bench.cli import main


def rehearse(vendor, folder, capsys, *options):
    """Return what a rehearsal prints, and its records."""
    words = ["check-device", "--rehearse", vendor, "--budget", "30", "--out", str(folder), "--json"]
    assert main([*words, *options]) == 0, capsys.readouterr()
    found = json.loads(capsys.readouterr().out)
    assert {state["status"] for state in found["stages"].values()} == {"ok"}
    records = valid_records(folder / "records.jsonl")
    assert {record["devices"][0]["name"].split(" (")[1] for record in records} == {
        "rehearsal on a CPU)"
    }
    return found, records


def assert_device_was_measured(found, records):
    calibration = found["stages"]["calibration"]["found"]
    assert calibration["energy_counter_tick_s"] == pytest.approx(0.02, rel=0.2)
    assert calibration["idle_power_w"]["after"] > 0
    (step,) = [record for record in records if record["sweep"] == "check-device.step"]
    assert step["metrics"]["energy_per_step_j"]["value"] > 0


def test_every_stage_runs_in_a_rehearsal(tmp_path, capsys):
    # As a baseline that needs an environment of its own.
    options = ("--interpreter", f"sdpa={sys.executable}")
    found, records = rehearse("nvidia", tmp_path / "check", capsys, *options)
    assert found["stages"].keys() == set(NAMES)
    assert_device_was_measured(found, records)
    stages = {name: state["found"] for name, state in found["stages"].items()}
    assert {each["equal"] for each in stages["communication"]["collectives"]} == {True}
    assert stages["tuning"]["kernels"]
    assert stages["published"]["times"]["triangle_attention forward"].keys() == {"8", "12"}

    elsewhere = [r for r in records if r["workload"]["config"].get("backend") == "sdpa"]
    assert [record["status"] for record in elsewhere] == ["ok", "ok"]
    missing = [record for record in records if record["status"] == "unsupported"]
    assert all("not installed" in r["reason"] or "accelerator" in r["reason"] for r in missing)
    # Of the records that these figures show: each other chapter is a figure more.
    sweeps = {"check-device.calibration", "check-device.kernels"}
    write_report([r for r in records if r["sweep"] in sweeps], tmp_path / "report")
    assert (tmp_path / "report" / "rates.png").exists()
    assert (tmp_path / "report" / "kernels_roofline.png").exists()

    lines = "\n".join(_table(found))
    assert "accuracy: 6 comparisons with float64" in lines
    assert "two runs of 3 operators are equal in every bit" in lines
    assert "idle power before" in lines


def test_stages_that_read_the_device_run_in_a_rehearsal_of_amd(tmp_path, capsys):
    """The others compare and time operators alike for each vendor."""
    stages = ("versions", "compilation", "calibration", "step")
    found, records = rehearse("amd", tmp_path / "check", capsys, "--only", *stages)
    assert found["stages"].keys() == set(stages)
    assert_device_was_measured(found, records)


def _table(found):
    states = {name: StageState(**state) for name, state in found["stages"].items()}
    published = {("triangle_attention forward", 8): {"another, H100": 0.00099}}
    lines = report_lines(states, list(map(parsed, found["records"])), published)
    assert any("0.990 published: another, H100" in line for line in lines)
    return lines


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--only", "nothing"], "--only nothing: choose one of versions, "),
        (["--interpreter", "trifast"], "expected BACKEND=PYTHON"),
        (["--interpreter", "other=/bin/sh"], "expected BACKEND=PYTHON"),
        (["--interpreter", "trifast=/no/such"], "/no/such is not a program"),
    ],
)
def test_invalid_arguments_are_refused(words, reason, tmp_path, capsys):
    assert main(["check-device", "--out", str(tmp_path), *words]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf", "soon"])
def test_budget_that_is_no_time_is_refused(budget, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["check-device", "--budget", budget])
    assert ended.value.code == 2
    assert "--budget" in capsys.readouterr().err
