"""Guarded streams: the program continues after a failed write."""

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.guarded_output import GuardedOutput, GuardedStream, guarded
from bench.progress import Progress

ROOT = Path(__file__).resolve().parents[2]


class Failing(io.StringIO):
    """A stream that fails at every write."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.attempts = 0

    def write(self, text):
        self.attempts += 1
        raise self.error


FULL = OSError(28, "No space left on device")
LEFT = BrokenPipeError(32, "Broken pipe")
GONE = ConnectionResetError(104, "Connection reset by peer")
CLOSED = ValueError("I/O operation on closed file")


@pytest.mark.parametrize("error", [FULL, LEFT, GONE, CLOSED], ids=repr)
def test_stream_that_failed_is_not_written_to_again(error):
    stream = Failing(error)
    guard = GuardedStream(stream)
    for _ in range(3):
        assert guard.write("text") == 4
    guard.flush()
    assert stream.attempts == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [(FULL, [2, 1, 3]), (LEFT, [0, 1, 3]), (GONE, [0, 1, 3]), (CLOSED, [0, 1, 3])],
    ids=repr,
)
def test_lost_output_is_a_fault_only_in_place_of_success(error, expected, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Failing(error))
    with GuardedOutput() as output:
        print("a")
        print("b")
        assert [output.settled(status) for status in (0, 1, 3)] == expected
    message = "foldperf: the standard output cannot be written: No space left on device\n"
    assert capsys.readouterr().err == (message if error is FULL else "")


def test_lost_errors_change_no_status(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Failing(FULL))
    with GuardedOutput() as output:
        print("a", file=sys.stderr)
        assert output.settled(0) == 0


def test_streams_are_the_former_ones_after_the_block(monkeypatch):
    streams = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with GuardedOutput():
        print("output")
        print("error", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == streams
    assert [stream.getvalue() for stream in streams] == ["output\n", "error\n"]


def test_buffered_text_does_not_fail_later_when_the_reader_has_left():
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", encoding="utf-8")
    guard = GuardedStream(stream)
    guard.write("text")
    guard.flush()
    stream.close()  # as the interpreter does at exit
    assert guard.error is None


def test_characters_that_the_encoding_lacks_are_escaped():
    buffer = io.BytesIO()
    guard = GuardedStream(io.TextIOWrapper(buffer, "ascii"))
    guard.writelines(["5 µs\n", "\udcff and plain\n"])
    guard.flush()
    assert buffer.getvalue() == b"5 \\xb5s\n\\udcff and plain\n"


def test_surrogates_of_an_undecodable_argument_are_escaped_in_utf_8():
    buffer = io.BytesIO()
    guard = GuardedStream(io.TextIOWrapper(buffer, "utf-8"))
    guard.write("µ \udcff")
    guard.flush()
    assert buffer.getvalue().decode() == "µ \\udcff"


def test_stream_that_failed_is_no_terminal(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    guard = GuardedStream(stream)
    assert guard.isatty()
    stream.close()
    guard.write("text")
    assert not guard.isatty()
    assert not GuardedStream(None).isatty()


def test_guarding_twice_changes_nothing():
    guard = guarded(None)
    assert guarded(guard) is guard


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_goes_on_when_its_reader_leaves(terminal, monkeypatch):
    stream = Failing(LEFT)
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    finished = []
    with Progress(3, "work", stream) as progress:
        for number in range(3):
            progress.start(f"piece {number}")
            progress.finish(f"piece {number} done")
            finished.append(number)
    assert finished == [0, 1, 2]


def test_files_get_no_number_of_a_closed_descriptor(tmp_path):
    code = (
        "import os, subprocess\n"
        "from bench.guarded_output import GuardedOutput\n"
        "with GuardedOutput(), open('file', 'w', encoding='utf-8') as file:\n"
        "    file.write(str(file.fileno() > 2))\n"
        "    print('to nobody')\n"
        "    subprocess.run(['sh', '-c', 'echo to nobody; echo to nobody >&2'], check=True)\n"
    )
    command = shlex.join([sys.executable, "-c", code])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shell = ["sh", "-c", f"{command} <&- >&- 2>&-"]
    subprocess.run(shell, cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "True"
