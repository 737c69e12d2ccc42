"""Processes that tests fork in the place of fresh ones."""

import json
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent


@pytest.mark.parametrize("safe_path", ["", "1"])
def test_forked_process_sees_of_itself_what_a_fresh_one_sees(command_server, tmp_path, safe_path):
    words = ["both", "request of spaces", "-m"]
    done = command_server.start(
        words,
        folder=tmp_path,
        paths=[TESTS],
        module="support.process_view",
        PYTHONSAFEPATH=safe_path,
    ).wait()
    assert done.returncode == 0, done.stderr
    forked, fresh = json.loads(done.stdout)
    assert forked == fresh
    assert forked["arguments"] == words[1:]
