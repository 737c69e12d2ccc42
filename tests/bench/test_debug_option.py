"""Errors on the command line: one line, with the traceback on request."""

import sys

import pytest

from bench.cli import listing, main


@pytest.fixture
def defect(monkeypatch):
    """Make ``foldperf list`` fail in an unexpected way."""

    def run(arguments):
        del arguments
        raise ZeroDivisionError("a defect\nof two lines")

    monkeypatch.setattr(listing, "run", run)
    monkeypatch.delenv("FOLDPERF_DEBUG", raising=False)


def test_unexpected_error_is_one_line_that_names_the_debug_option(defect, capsys):
    assert main(["list"]) == 2
    assert capsys.readouterr().err == (
        "foldperf: unexpected ZeroDivisionError: a defect of two lines; --debug shows where\n"
    )


@pytest.mark.parametrize("words", [["--debug", "list"], ["list", "--debug"]])
def test_debug_option_shows_the_traceback_before_and_after_the_command(words, defect, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert 'ZeroDivisionError("a defect\\nof two lines")' in error
    assert error.splitlines()[-1].startswith("foldperf: unexpected ZeroDivisionError")


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_debug_variable_shows_the_traceback(value, shown, defect, capsys, monkeypatch):
    monkeypatch.setenv("FOLDPERF_DEBUG", value)
    assert main(["list"]) == 2
    assert ("Traceback" in capsys.readouterr().err) == shown


def test_debug_option_is_accepted_among_the_axes_of_a_workload(capsys):
    words = ["describe", "transformer", "--debug", "--preset", "bloom-tiny"]
    assert main(words) == 0
    assert main([*words[:-1], "huge"]) == 2
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.splitlines()[-1].startswith("foldperf: preset='huge' does not exist")


def test_commands_are_given_the_debug_option(monkeypatch):
    given = []
    monkeypatch.setattr(listing, "run", lambda arguments: given.append(arguments.debug) or 0)
    monkeypatch.delenv("FOLDPERF_DEBUG", raising=False)
    for words in (["list"], ["--debug", "list"], ["list", "--debug"]):
        assert main(words) == 0
    monkeypatch.setenv("FOLDPERF_DEBUG", "1")
    assert main(["list"]) == 0
    assert given == [False, True, True, True]


def test_status_of_a_library_that_ends_the_command_is_2(monkeypatch, capsys):
    monkeypatch.setattr(listing, "run", lambda arguments: sys.exit(1))
    assert main(["list"]) == 2
    assert capsys.readouterr().err.startswith("foldperf: unexpected RuntimeError: a library ended")
