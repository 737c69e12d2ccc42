"""Processes that tests fork in the place of fresh ones."""

import json
import signal
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest
from support.forked_modules import ForkingPopen

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


def test_forked_process_leaves_the_processes_of_its_caller_alone(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", ForkingPopen)
    running = get_context("fork").Process(target=signal.pause, daemon=True)
    running.start()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench", "--help"], stdout=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 0
        assert running.is_alive()
    finally:
        running.kill()
        running.join()
