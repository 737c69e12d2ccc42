"""Training on several data ranks: the losses of one rank, and exact resume."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import HANG_S

from bench.cli.faults import INTERRUPTED

ROOT = Path(__file__).resolve().parents[3]
STEPS = 20


def command(store, folder, ranks, *more, steps=STEPS):
    return [
        *(sys.executable, "-m", "bench", "train", "--model", "trunk", "--entries", "1ubq", "8vkf"),
        *("--tokens", "16", "--alignment-rows", "4", "--batch", "2", "--cycles", "2"),
        *("--precision", "float64", "--backend", "reference", "--workers", "0"),
        *("--warmup-steps", "4", "--data-ranks", str(ranks)),
        *(() if steps is None else ("--steps", str(steps))),
        *("--checkpoint-every", "2", "--out", str(folder), "--store", str(store.root), *more),
    ]


def launch(*arguments, **options):
    """Run the command as a user does: it starts its ranks through `torchrun`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(*arguments, **options),
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=HANG_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(command_server, tmp_path_factory):
    """Run the command on ranks that need no time to import its libraries."""
    working = tmp_path_factory.mktemp("working")

    def run(store, folder, ranks, *more, context=1, steps=STEPS):
        words = command(store, folder, ranks, *more, "--context-ranks", context, steps=steps)[3:]
        if ranks * context == 1:
            every = [command_server.run(words, folder=working)]
        else:
            every = command_server.run_ranks(ranks * context, words, folder=working)
        for done in every:
            assert done.returncode == 0, done.stdout + done.stderr
        return every[0]

    return run


def log(folder):
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def results(folder):
    return [
        {name: line[name] for name in line if name not in {"seconds", "batch"}}
        for line in log(folder)
    ]


@pytest.fixture(scope="module")
def two_ranks(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch(store, folder, 2)
    return folder


def test_losses_of_two_ranks_are_those_of_one_rank_with_the_same_batch(
    run, store, tmp_path, two_ranks
):
    run(store, tmp_path, 1, steps=8)
    one, two = log(tmp_path), log(two_ranks)[:8]
    assert [line["drawn"] for line in one] == [line["drawn"] for line in two]
    for name in ("loss", "gradient_norm"):
        expected = np.array([line[name] for line in one])
        found = np.array([line[name] for line in two])
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(found[:5], expected[:5], rtol=1e-9)


def wait_for_steps(folder, count, is_running):
    """Return when more than `count` steps are logged, which must be before the run ends."""
    deadline = time.monotonic() + HANG_S
    while not (folder / "log.jsonl").exists() or len(log(folder)) <= count:
        assert is_running(), "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.bits
def test_stop_and_kills_of_two_ranks_lose_no_bit(run, store, tmp_path, two_ranks, command_server):
    """Both ranks killed at once, then one rank alone, then stopped by a signal."""
    words = command(store, tmp_path, 2)[3:]
    both = command_server.start_ranks(2, words, folder=tmp_path)
    wait_for_steps(tmp_path, 2, both.is_running)
    both.kill()
    one = command_server.start_ranks(2, words, folder=tmp_path)
    wait_for_steps(tmp_path, 4, one.is_running)
    os.kill(one.pids[1], signal.SIGKILL)
    survivor, killed = one.wait_for_ranks()
    assert survivor.returncode not in {0, INTERRUPTED, -signal.SIGKILL}
    assert killed.returncode == -signal.SIGKILL
    # A launcher, which starts the ranks through `torchrun`.
    signalled = command_server.start(words, folder=tmp_path)
    wait_for_steps(tmp_path, 8, signalled.is_running)
    os.kill(signalled.pid, signal.SIGTERM)
    assert signalled.wait().returncode == INTERRUPTED
    run(store, tmp_path, 2)
    assert results(tmp_path) == results(two_ranks)


def test_more_ranks_than_cores_are_refused_before_any_starts(store, tmp_path, command_server):
    words = command(store, tmp_path, 4000, "--batch", "4000")[3:]
    refused = command_server.run(words, folder=tmp_path)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "4000 ranks: this machine has" in line


def test_replayed_batches_of_two_ranks_are_those_of_the_log(run, store, two_ranks):
    done = run(store, two_ranks, 2, "--replay-step", "1", steps=None)
    assert "the same as that of" in done.stdout


def test_context_ranks_have_the_losses_of_one_rank_and_resume_on_it(run, store, tmp_path):
    """The whole model on two ranks; then one rank continues from their checkpoint."""
    whole, divided = tmp_path / "whole", tmp_path / "divided"
    full = ("--model", "alphafold3", "--batch", "1", "--samples", "2", "--cycles", "1")
    run(store, whole, 1, *full, steps=4)
    run(store, divided, 1, *full, context=2, steps=2)
    run(store, divided, 1, *full, steps=4)
    assert [line["batch"] for line in log(divided)] == [line["batch"] for line in log(whole)]
    assert [line["drawn"] for line in log(divided)] == [line["drawn"] for line in log(whole)]
    for name in ("loss", "gradient_norm"):
        expected, found = ([line[name] for line in log(folder)] for folder in (whole, divided))
        np.testing.assert_allclose(found, expected, rtol=1e-10)
