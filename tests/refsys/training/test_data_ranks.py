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

ROOT = Path(__file__).resolve().parents[3]
STEPS = 6


def command(store, folder, ranks, *more, steps=STEPS):
    return [
        *(sys.executable, "-m", "bench", "train", "--model", "trunk", "--entries", "1ubq", "8vkf"),
        *("--tokens", "16", "--alignment-rows", "4", "--batch", "2", "--cycles", "2"),
        *("--precision", "float64", "--backend", "reference", "--workers", "0"),
        *("--warmup-steps", "4", "--data-ranks", str(ranks)),
        *(() if steps is None else ("--steps", str(steps))),
        *("--checkpoint-every", "2", "--out", str(folder), "--store", str(store.root), *more),
    ]


def run(*arguments, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(*arguments, **options),
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


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
    run(store, folder, 2)
    return folder


def test_losses_of_two_ranks_are_those_of_one_rank_with_the_same_batch(store, tmp_path, two_ranks):
    run(store, tmp_path, 1)
    one, two = log(tmp_path), log(two_ranks)
    assert [line["drawn"] for line in one] == [line["drawn"] for line in two]
    for name in ("loss", "gradient_norm"):
        expected = np.array([line[name] for line in one])
        found = np.array([line[name] for line in two])
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
        np.testing.assert_allclose(found[:5], expected[:5], rtol=1e-9)


@pytest.mark.bits
def test_stop_and_kill_of_two_ranks_lose_no_bit(store, tmp_path, two_ranks):
    """Stopped after a checkpoint, then killed whole in the middle, then one rank killed alone."""
    run(store, tmp_path, 2, steps=2)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(store, tmp_path, 2),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    reached = len(log(tmp_path))
    deadline = time.monotonic() + 120
    while process.poll() is None and len(log(tmp_path)) <= reached:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(store, tmp_path, 2)
    assert results(tmp_path) == results(two_ranks)


def test_replayed_batches_of_two_ranks_are_those_of_the_log(store, two_ranks):
    done = run(store, two_ranks, 2, "--replay-step", "1", steps=None)
    assert "the same as that of" in done.stdout
