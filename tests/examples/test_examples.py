"""Examples: each is run, and each file says what it shows and how long it takes."""

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from support.records import valid_records

from bench.run.sweep import read_sweep
from workloads.catalogue import catalogue

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
RECORDS = ROOT / "results" / "recorded" / "demo-2-core-cpu.jsonl"
# One small case in place of the sweep's.
SWEEP = """
[protocol]
warmup_steps = 0
timed_steps = 1
counts = false
[[case]]
workload = "operators"
axes = { operator = "layer_norm", preset = "tiny", tokens = 8 }
"""
# Examples with a test of their own.
ELSEWHERE = {
    "operators/swap.py": "tests/examples/test_operators.py",
    "custom_workload/local_attention.py": "tests/test_everywhere.py",
}


@pytest.fixture
def run_script(tmp_path, monkeypatch, capsys):
    """Return a function that runs a Python example in a new folder and returns its output."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_plan_names_the_fastest_candidate(run_script):
    output = run_script("plan_run.py", "--preset", "tiny", "--tokens", 8, "--gpus", 1)
    *candidates, last = output.splitlines()
    assert re.fullmatch(r"fastest: activations saved, [\d.]+ kJ an example predicted", last)
    assert all("examples/h predicted" in line for line in candidates)


def test_records_in_pandas_prints_exponents_and_states(run_script):
    output = run_script("records_in_pandas.py", RECORDS)
    exponents, states = output.split("\n\n")
    values = {line.rsplit(None, 1)[0]: float(line.split()[-1]) for line in exponents.splitlines()}
    (trunk,) = [values[name] for name in values if name.startswith("alphafold3-trunk")]
    assert 1.5 < trunk < 2.5
    shares = [int(share) for share in re.findall(r"(\d+)%", states)]
    assert shares == sorted(shares, reverse=True)
    assert 90 < sum(shares) <= 101


def test_commands_of_the_sweep_leave_records_and_a_report(foldperf, tmp_path):
    """Each line of the script is a command, which the server of commands runs."""
    lines = (EXAMPLES / "sweep.sh").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[0] == "set -eu"
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    for command in commands[1:]:
        program, *words = shlex.split(command)
        assert program == "foldperf"
        foldperf(*words, check=0, FOLDPERF_HOME=str(tmp_path / "home"))
    (record,) = valid_records(tmp_path / "results/runs/sweep/records.jsonl")
    assert record["status"] == "ok"
    assert (tmp_path / "results/report/index.html").is_file()


def test_sweep_of_the_example_has_three_sizes():
    sweep = read_sweep(EXAMPLES / "sweep.toml", catalogue())
    assert [case.title.count("triangle_attention") for case in sweep.cases] == [1, 1, 1]


def programs():
    """Return the programs among the examples."""
    paths = [*EXAMPLES.rglob("*.py"), *EXAMPLES.rglob("*.sh")]
    return sorted(path for path in paths if "build" not in path.parts)


@pytest.mark.parametrize("path", programs(), ids=lambda path: path.name)
def test_program_is_run_and_listed(path):
    name = path.relative_to(EXAMPLES).as_posix()
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in listed or f"{path.name}`" in listed or f"`{path.parent.name}/`" in listed
    if name in ELSEWHERE:
        assert (ROOT / ELSEWHERE[name]).is_file()
    elif path.name != "pairformer.py":
        assert f'"{name}"' in Path(__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["plan_run.py", "records_in_pandas.py", "sweep.sh"])
def test_program_says_how_to_run_it_and_how_long_it_takes(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    head = ast.get_docstring(ast.parse(text)) if name.endswith(".py") else text.split("set -eu")[0]
    assert f"examples/{name}" in head
    assert re.search(r"[Tt]akes\s+(some minutes|#?\s*\d+ s)", head)
