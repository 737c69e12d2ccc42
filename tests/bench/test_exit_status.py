"""Exit status of every command, for any reader of its output and a minimal environment."""

import io
import json
import os
import pwd
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.measured import measured
from support.mmcif import mmcif
from support.records import GIT, a_record
from support.repositories import make_repository

from analysis.errors import AnalysisError
from bench.check_device.progress import Stages
from bench.cli import COMMANDS, main
from bench.compilation.compiler import Compiled
from bench.records import provenance
from bench.records.origin import GitState
from bench.records.pytest_benchmark import NAME as PYTEST_BENCHMARK
from bench.run.isolation import Ended
from bench.run.runner import RECORDS

SWEEP = """
[[case]]
workload = "operators"
axes = { operator = "layer_norm", preset = "tiny", tokens = [4, 8] }
"""
COMMIT = GIT | {"commit_time": "2026-01-01T00:00:00+00:00"}
TRAINED = "--tokens 8 --samples 1 --store {inputs}/store"


@dataclass(frozen=True, slots=True)
class Call:
    """A command's quickest useful call.

    Attributes:
        words: Its words; `{inputs}` is a folder of inputs and `{out}` an empty one.
        status: Its exit status.
        product: A file that it writes in `{out}`, or empty.
    """

    words: str
    status: int = 0
    product: str = ""


CALLS = {
    "doctor": Call("--device cpu --store {inputs}/store"),
    "fetch": Call(""),
    "prepare": Call("{inputs}/test.cif --store {out}", product="examples/test.json"),
    "train": Call(f"--entries test --steps 1 --cycles 1 --out {{out}} {TRAINED}", 0, "log.jsonl"),
    "learn": Call(
        f"--entry test --draws 1 --steps 2 --target 0 --out {{out}} {TRAINED}", 1, "learning.json"
    ),
    "fold": Call(
        "test --samples 1 --cycles 1 --steps 1 --out {out} --store {inputs}/store",
        product="test.json",
    ),
    "list": Call(""),
    "describe": Call("transformer"),
    # Its case processes are replaced by ones that crash.
    "run": Call("{inputs}/sweep.toml --results {out} --store none", 2, f"runs/sweep/{RECORDS}"),
    "simulate": Call(
        "transformer --preset bloom-tiny --tokens 16 --jobs 1 --no-cache --results {out}",
        product=f"runs/simulation/{RECORDS}",
    ),
    "frontier": Call("transformer --preset bloom-tiny --memory 8 --most-tokens 32"),
    "plan": Call(
        "--tokens 16 --device h200 --goal inference --preset tiny --alignment-rows 4 --samples 1 "
        "--steps 2 --cycles 1 --jobs 1"
    ),
    # Its kernel is replaced by one that does not compile.
    "compile": Call(
        "--only layer_norm --architecture sm_80 --jobs 1 --out {out}", 1, "kernels.json"
    ),
    "tune": Call("--store none operators", 2),
    # Its process is replaced by one whose only stage fails.
    "check-device": Call("--only versions --out {out}/check", 1, "check/stages.json"),
    # Its baseline has other peaks.
    "gate": Call(
        "--cases {inputs}/sweep.toml --baseline {inputs}/baseline.json --jobs 1 "
        "--junit {out}/x.xml",
        1,
        "x.xml",
    ),
    "report": Call("{inputs}/failed.jsonl --out {out}", product="index.html"),
    "export": Call("asv {inputs}/records.jsonl --out {out}", product="benchmarks.json"),
    "import": Call("pytest-benchmark {inputs}/benchmarks.json --results {out}"),
    "promote": Call("{inputs}/records.jsonl --name x --results {out}", product="recorded/x.jsonl"),
    "stamp": Call("", product=provenance.STAMP),
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folder with the inputs of the calls."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "test.cif").write_text(mmcif(), encoding="utf-8")
    assert main(["prepare", str(folder / "test.cif"), "--store", str(folder / "store")]) == 0
    (folder / "sweep.toml").write_text(SWEEP, encoding="utf-8")
    write_failing_baseline(folder)
    record = json.dumps(measured(8, git=COMMIT))
    (folder / "records.jsonl").write_text(record + "\n", encoding="utf-8")
    (folder / "failed.jsonl").write_text(json.dumps(a_record(1)) + "\n", encoding="utf-8")
    benchmarks = {PYTEST_BENCHMARK: {}, "version": "5", "datetime": "", "benchmarks": []}
    (folder / "benchmarks.json").write_text(json.dumps(benchmarks), encoding="utf-8")
    return folder


def write_failing_baseline(folder):
    """A baseline of the sweep that the source does not meet."""
    path = folder / "baseline.json"
    gate = ["gate", "--cases", str(folder / "sweep.toml"), "--baseline", str(path), "--jobs", "1"]
    assert main([*gate, "--bless", "--reason", "a test"]) == 0
    table = json.loads(path.read_text(encoding="utf-8"))
    for case in table["cases"].values():
        case["peaks"] = {phase: nbytes + 1 for phase, nbytes in case["peaks"].items()}
    path.write_text(json.dumps(table), encoding="utf-8")


@pytest.fixture
def call(inputs, tmp_path, monkeypatch, request):
    """Return a function that calls a command in this process and checks the files it wrote."""
    monkeypatch.setattr(
        "bench.run.runner.run_isolated", lambda *_, **__: Ended(7, None, 0.1, 2**20, "it gave up")
    )
    monkeypatch.setattr(
        "bench.compilation.compiler.compile_all",
        lambda specimens, jobs, done: [Compiled(s, None, "broken", 0.0, False) for s in specimens],
    )
    monkeypatch.setattr("bench.check_device.supervisor.run_isolated", failed_check)
    if "bare" not in request.fixturenames:
        # Plotting takes most of the time and depends on the environment alone.
        for name in ("learning.draw_learning", "kernels.draw_kernels"):
            monkeypatch.setattr(f"analysis.{name}", lambda record, folder: folder / "x.svg")
    monkeypatch.setattr(provenance, "git_state", lambda: GitState(**COMMIT))
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(name):
        if name == "stamp":
            make_repository(tmp_path)
        words = CALLS[name].words.format(inputs=inputs, out=tmp_path)
        status = main([name, *words.split()])
        if status == CALLS[name].status and CALLS[name].product:
            assert (tmp_path / CALLS[name].product).stat().st_size
        return status

    return run


def failed_check(command, **_):
    """End as the process of a device check would whose stage found a fault."""
    request = json.loads(Path(command[-1]).read_text(encoding="utf-8"))
    states = Stages(Path(request["folder"]), "identity")
    states.start("versions", 1.0, 2.0)
    states.end("versions", 2.0, "failed", "wrong")
    return Ended(0, None, 0.1, 2**20, "")


def left_by_its_reader():
    """Return a stream into a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


class Full(io.StringIO):
    """A stream on a full disk, without a descriptor."""

    def write(self, text):
        raise OSError(28, "No space left on device")


class Left(io.StringIO):
    """A stream whose reader has left, without a descriptor."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    flush = write


@pytest.mark.parametrize("name", COMMANDS)
def test_status_is_the_verdict_when_the_reader_leaves(name, call, monkeypatch):
    with left_by_its_reader() as output, left_by_its_reader() as errors:
        monkeypatch.setattr(sys, "stdout", output)
        monkeypatch.setattr(sys, "stderr", errors)
        assert call(name) == CALLS[name].status


@pytest.mark.parametrize("name", COMMANDS)
def test_status_is_a_fault_or_the_verdict_when_the_output_is_full(name, call, monkeypatch, capsys):
    with open("/dev/full", "w", encoding="utf-8") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert call(name) == (CALLS[name].status or 2)
    if name != "tune":  # which refuses, and prints nothing
        error = capsys.readouterr().err
        message = "foldperf: the standard output cannot be written: No space left on device\n"
        assert error.count(message) == 1
        assert "Traceback" not in error


@pytest.mark.parametrize("name", COMMANDS)
def test_status_is_the_verdict_when_the_streams_are_closed(name, call, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert call(name) == CALLS[name].status


@pytest.fixture
def bare(monkeypatch):
    """An empty environment of a user without a passwd entry."""
    for name in os.environ:
        monkeypatch.delenv(name)

    def refuse(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", refuse)


@pytest.fixture
def in_ascii(monkeypatch):
    """Call a function with streams of ASCII; return its value, output and errors."""

    def run(function, *arguments):
        streams = [io.TextIOWrapper(io.BytesIO(), "ascii") for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            value = function(*arguments)
        return value, *(stream.buffer.getvalue().decode("ascii") for stream in streams)

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_status_is_the_verdict_in_an_empty_environment(name, call, bare, in_ascii):
    status, output, error = in_ascii(call, name)
    assert "Traceback" not in error
    assert "cannot be written" not in error
    if name == "fetch":  # there is no folder for downloads
        assert status == 2
        assert "has no home folder" in error
        assert "set FOLDPERF_HOME" in error
    else:
        assert status == CALLS[name].status
        assert output or name == "tune"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_neither_reader_nor_environment(name, bare, monkeypatch):
    for stream, expected in ((sys.stdout, 0), (Left(), 0), (None, 0), (Full(), 2)):
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == expected


def without_store(name):
    """The call of a command without its store, which then is the default."""
    call = CALLS[name]
    return Call(re.sub(r"--store \S+", "", call.words), call.status, call.product)


@pytest.mark.parametrize("name", ["doctor", "list", "describe", "run", "gate"])
def test_command_without_inputs_needs_no_home_folder(name, call, bare, monkeypatch):
    monkeypatch.setitem(CALLS, name, without_store(name))
    assert call(name) == CALLS[name].status


@pytest.mark.parametrize("name", ["fetch", "train", "learn", "fold", "tune"])
def test_command_that_reads_inputs_names_the_variable_of_the_home_folder(
    name, call, bare, monkeypatch, capsys
):
    monkeypatch.setitem(CALLS, name, without_store(name))
    monkeypatch.setattr("bench.tuning.check_device", lambda device: None)
    assert call(name) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "set FOLDPERF_HOME" in error


UNWRITABLE = {
    "gate": (("--junit", "{file}/x"), ("--markdown", "{file}/x")),
    "compile": (("--out", "{file}/x"),),
}


@pytest.mark.parametrize(
    ("name", "option"), [(name, option) for name, each in UNWRITABLE.items() for option in each]
)
@pytest.mark.parametrize("json_output", [(), ("--json",)])
def test_regression_stays_one_when_its_files_cannot_be_written(
    name, option, json_output, call, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    words = f"{CALLS[name].words} {' '.join((*option, *json_output))}"
    monkeypatch.setitem(CALLS, name, Call(words.replace("{file}", str(tmp_path / "file")), 1))
    assert call(name) == 1
    output, error = capsys.readouterr()
    assert error.startswith(f"foldperf: {tmp_path / 'file'}")
    assert error.count("\n") == 1
    assert "violations" in output or "verdict" in output if json_output else "FAIL" in output


@pytest.mark.parametrize("target", ["0", "9"])
def test_learning_verdict_stays_when_the_figure_cannot_be_plotted(
    target, call, monkeypatch, capsys
):
    def fail(*_):
        raise AnalysisError("no library to draw with")

    monkeypatch.setattr("analysis.learning.draw_learning", fail)
    words = CALLS["learn"].words.replace("--target 0", f"--target {target}")
    monkeypatch.setitem(CALLS, "learn", Call(words))
    assert call("learn") == {"0": 1, "9": 2}[target]
    assert "no library to draw with" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "learn"])
def test_training_that_a_signal_stopped_is_an_interrupt(name, call, monkeypatch, capsys):
    monkeypatch.setattr("refsys.training.train.train", lambda *_, **__: 0)
    monkeypatch.setitem(CALLS, name, Call(CALLS[name].words))
    assert call(name) == 130
    assert capsys.readouterr().out.startswith("stopped after 0 steps")


def test_interrupt_while_the_commands_are_imported_is_130(monkeypatch, capsys):
    def interrupt(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.cli.import_module", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "foldperf: interrupted\n"


def test_command_that_cannot_be_imported_is_a_fault(monkeypatch, capsys):
    def fail(name):
        raise ModuleNotFoundError("No module named 'numpy'")

    monkeypatch.setattr("bench.cli.import_module", fail)
    assert main(["list"]) == 2
    assert capsys.readouterr().err.startswith("foldperf: unexpected ModuleNotFoundError: No module")


def test_removed_working_folder_is_a_fault_in_one_line(monkeypatch, capsys):
    def fail():
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", fail)
    assert main(["list"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "foldperf: the working folder cannot be used (No such file or directory)"
    )
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["doctor", "train", "run", "prepare"])
def test_home_folder_that_is_a_file_is_a_fault_in_one_line(
    name, call, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path / "file"))
    monkeypatch.setitem(CALLS, name, without_store(name))
    if name == "prepare":
        monkeypatch.setitem(CALLS, name, Call(""))
    status = call(name)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    # The doctor says so among its findings; the sweep reads no inputs.
    assert status == (0 if name == "doctor" else 2)
