"""Training: bit-identical over runs, workers, stops and kills; checkpoints that can be trusted."""

import errno
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from bench.cli import main
from refsys.data.batches.examples import Examples
from refsys.errors import CheckpointError, DataError, DivergedError
from refsys.options import changed
from refsys.parallel.batch_layouts import SingleRankLayouts
from refsys.run_config import OptimizerConfig, run_config
from refsys.training.checkpoint import checkpoints
from refsys.training.loading import load, open_examples
from refsys.training.log import logged
from refsys.training.train import train

ROOT = Path(__file__).resolve().parents[3]
CONFIG = run_config(
    model="trunk",
    preset="tiny",
    entries=("1ubq", "8vkf"),
    tokens=24,
    alignment_rows=6,
    learning_rate=5e-3,
    warmup_steps=10,
    cycles=2,
    workers=0,
)
STEPS = 50
# Enough to compare bits: steps do not know how many follow.
FEW = 24


def losses(folder):
    return [
        json.loads(line)["loss"]
        for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def steps_logged(folder):
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.fixture(scope="module")
def reference(store, tmp_path_factory):
    """The losses of an undisturbed run, loaded in the training process."""
    folder = tmp_path_factory.mktemp("reference")
    assert train(CONFIG, store, folder, steps=STEPS) == STEPS
    return losses(folder)


def test_training_lowers_the_loss(reference):
    assert np.mean(reference[-10:]) < np.mean(reference[:10]) - 0.1


@pytest.mark.bits
@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_training_has_the_same_bits_for_any_number_of_workers(store, tmp_path, reference, workers):
    train(changed(CONFIG, workers=workers), store, tmp_path, steps=FEW)
    assert losses(tmp_path) == reference[:FEW]


@pytest.mark.bits
def test_training_has_the_same_bits_after_any_stop(store, tmp_path, reference):
    """Every step is a stop: each of the first eight by itself, then longer strides."""
    for number, stop in enumerate((*range(1, 9), 15, 16, FEW)):
        config = changed(CONFIG, workers=number % 2)
        assert train(config, store, tmp_path, steps=stop) == stop
    assert losses(tmp_path) == reference[:FEW]


@pytest.mark.bits
def test_training_has_the_same_bits_after_kills(store, tmp_path, reference, command_server):
    """SIGKILL at any moment costs the steps since the last checkpoint, and no bit of the result."""
    command = [
        *("train", "--model", "trunk", "--preset", "tiny"),
        *("--entries", "1ubq", "8vkf"),
        *("--tokens", "24", "--alignment-rows", "6", "--learning-rate", "5e-3"),
        *("--warmup-steps", "10", "--cycles", "2", "--checkpoint-every", "4", "--workers", "0"),
        *("--steps", str(STEPS), "--out", str(tmp_path), "--store", str(store.root)),
    ]
    for reached in (3, 11, 20):
        training = command_server.start(command, folder=tmp_path)
        while training.is_running() and steps_logged(tmp_path) < reached:
            time.sleep(0.002)
        training.kill()
        assert reached <= steps_logged(tmp_path) < STEPS
    done = command_server.run(command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{STEPS} steps done" in done.stdout
    assert losses(tmp_path) == reference


@pytest.mark.bits
def test_signal_stops_training_after_the_step_with_a_checkpoint(store, tmp_path, reference):
    def interrupt(step):
        if step.step == 6:
            signal.raise_signal(signal.SIGTERM)

    assert train(CONFIG, store, tmp_path, steps=STEPS, on_step=interrupt) == 7
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step-000000007"]
    assert train(CONFIG, store, tmp_path, steps=9) == 9
    assert losses(tmp_path) == reference[:9]


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run of six steps."""
    folder = tmp_path_factory.mktemp("run")
    train(changed(CONFIG, workers=1), store, folder, steps=6)
    return folder


class TestReplay:
    OPTIONS = (
        *("train", "--model", "trunk", "--preset", "tiny", "--entries", "1ubq", "8vkf"),
        *("--tokens", "24", "--alignment-rows", "6", "--cycles", "2"),
    )

    def test_replayed_batches_equal_those_of_the_log(self, run, store):
        examples = open_examples(CONFIG, store)
        for step in (5, 0, 3, 1, 2, 4):
            found, line = load(examples, CONFIG, step), logged(run, step)
            assert found.digest == line["batch"] == examples[step].digest()
            assert [place.name for place in found.drawn] == line["drawn"]
            assert not line["substituted"]

    def test_batch_digest_covers_every_value_and_shape(self, store):
        batch = open_examples(CONFIG, store)[0]
        other = batch["deletions"].clone()
        other[0, -1, -1] += 1
        changed = batch.replaced(deletions=other)
        assert changed.digest() != batch.digest()
        assert batch.padded(alignment_row=7).digest() != batch.digest()
        assert [n for n, d in changed.digests().items() if d != batch.digests()[n]] == ["deletions"]

    @pytest.mark.parametrize(
        ("options", "status", "said"),
        [
            (("--replay-step", "3"), 0, "the same as that of"),
            (("--replay-step", "3", "--seed", "1"), 1, "not that of"),
            (("--replay-step", "99"), 0, "has no step 99 to compare with"),
        ],
    )
    def test_replay_command_compares_with_the_log(self, run, store, capsys, options, status, said):
        where = ("--out", str(run), "--store", str(store.root))
        assert main([*self.OPTIONS, *where, *options]) == status
        out = capsys.readouterr().out
        assert said in out
        assert "profile                    torch.float32   [1, 24, 31]" in out

    def test_replay_needs_no_log_and_refuses_a_damaged_one(self, run, store, tmp_path, capsys):
        where = ("--out", str(tmp_path), "--store", str(store.root), "--replay-step", "0")
        assert main([*self.OPTIONS, *where]) == 0
        (tmp_path / "log.jsonl").write_text("{\n", encoding="utf-8")
        assert main([*self.OPTIONS, *where]) == 2
        assert "log.jsonl: step 0: unreadable" in capsys.readouterr().err


class Sleeping:
    """A device that is at work for 200 ms a step, a small part of what any device needs."""

    forward_phases = ("forward",)
    host_phases = ()
    losses: ClassVar = {}
    loss = torch.zeros(())
    relabel = None
    layouts = SingleRankLayouts()
    schedule = SimpleNamespace(rate=lambda step: 1e-3)

    def initialize(self):
        pass

    def begin(self, batch, step):
        assert batch["alignment"].shape[2:] == (1024, 384)
        return self

    @property
    def phases(self):
        return {"forward": lambda: time.sleep(0.2)}

    def backward(self, loss):
        pass

    def update(self, step):
        return torch.zeros(())

    def cycles_of(self, step):
        return 1


def test_training_waits_under_one_percent_for_one_loader_process(store, tmp_path, monkeypatch):
    """At the crop and depth of training; on shared cores, in one undisturbed window of four."""
    config = run_config(
        preset="full",
        entries=("8vkf",),
        tokens=384,
        alignment_rows=1024,
        cycles=4,
        bucketed=False,
    )
    monkeypatch.setattr("refsys.training.train.build_training", lambda config, device: Sleeping())
    monkeypatch.setattr("refsys.training.train.save", lambda *arguments: None)
    steps = []
    train(config, store, tmp_path, steps=30, on_step=steps.append)
    shares = []
    for first in range(6, 30, 6):
        part = [step.seconds for step in steps[first : first + 6]]
        waited = sum(seconds["data"] for seconds in part)
        shares.append(waited / sum(sum(seconds.values()) for seconds in part))
    assert min(shares) < 0.01


def test_log_has_loss_learning_rate_and_phase_times(store, tmp_path):
    train(CONFIG, store, tmp_path, steps=2)
    line = json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()[1])
    assert line["step"] == 1
    assert line["learning_rate"] == pytest.approx(1e-3)
    assert set(line["seconds"]) == {"data", "forward", "backward", "optimizer"}
    assert line["gradient_norm"] > 0


class TestCheckpoints:
    @pytest.fixture
    def folder(self, store, tmp_path):
        train(CONFIG, store, tmp_path, steps=4, checkpoint_every=1)
        return tmp_path

    def test_last_two_checkpoints_are_stored(self, folder):
        found = checkpoints(folder / "checkpoints")
        assert [path.name for path in found] == ["step-000000003", "step-000000004"]

    def test_checkpoint_of_another_run_is_refused(self, folder, store):
        other = changed(CONFIG, seed=1, cycles=1)
        with pytest.raises(CheckpointError, match="of a run with another cycles, seed"):
            train(other, store, folder, steps=5)

    def test_run_with_other_inputs_of_the_same_name_is_refused(self, folder, store, monkeypatch):
        monkeypatch.setattr(Examples, "records", lambda self: {"1ubq": {"structure": "other"}})
        with pytest.raises(CheckpointError, match="of a run with another inputs"):
            train(CONFIG, store, folder, steps=5)

    def test_damaged_checkpoint_is_refused(self, folder, store):
        path = checkpoints(folder / "checkpoints")[-1] / "exp_avg.npy"
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"exp_avg\.npy: altered"):
            train(CONFIG, store, folder, steps=5)

    def test_altered_step_count_is_refused(self, folder, store):
        path = checkpoints(folder / "checkpoints")[-1] / "record.json"
        path.write_text(
            path.read_text(encoding="utf-8").replace('"step": 4', '"step": 2'), encoding="utf-8"
        )
        with pytest.raises(CheckpointError, match="altered since it was written"):
            train(CONFIG, store, folder, steps=5)

    def test_log_without_its_last_line_end_is_continued(self, folder, store):
        log = folder / "log.jsonl"
        log.write_bytes(log.read_bytes().rstrip())
        train(CONFIG, store, folder, steps=5)
        assert len(losses(folder)) == 5

    def test_log_with_missing_lines_is_refused(self, folder, store):
        (folder / "log.jsonl").write_text("", encoding="utf-8")
        with pytest.raises(CheckpointError, match="has 0 lines; the checkpoint has 4 steps"):
            train(CONFIG, store, folder, steps=5)

    def test_unwritable_folder_is_an_error_of_one_line(self, store, tmp_path):
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(CheckpointError, match="Not a directory"):
            train(CONFIG, store, tmp_path / "file" / "x", steps=1)


def test_non_finite_loss_ends_training_in_one_line(store, tmp_path):
    wild = changed(CONFIG, learning_rate=1e30, warmup_steps=1)
    with pytest.raises(DivergedError, match=r"step \d+: the .* is (nan|inf); lower"):
        train(wild, store, tmp_path, steps=STEPS, checkpoint_every=1)
    assert all(np.isfinite(losses(tmp_path)))
    assert len(losses(tmp_path)) >= 1


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_record_is_an_error_of_one_line(store, tmp_path, monkeypatch, workers):
    def damaged(self, step):
        raise DataError("atom_position.npy: damaged")

    monkeypatch.setattr(Examples, "__getitem__", damaged)
    with pytest.raises(DataError) as caught:
        train(changed(CONFIG, workers=workers), store, tmp_path, steps=2)
    assert str(caught.value) == "atom_position.npy: damaged"


def test_killed_loader_is_an_error_of_one_line(store, tmp_path, monkeypatch):
    monkeypatch.setattr(Examples, "__getitem__", lambda self, step: os.kill(os.getpid(), 9))
    with pytest.raises(DataError, match="a loader process ended") as caught:
        train(changed(CONFIG, workers=1), store, tmp_path, steps=2)
    assert "\n" not in str(caught.value)


def test_full_disk_is_an_error_of_one_line(store, tmp_path, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(*_):
        raise full

    monkeypatch.setattr("refsys.training.train.os.write", write)
    with pytest.raises(CheckpointError, match=r"log\.jsonl: cannot be written: No space left"):
        train(CONFIG, store, tmp_path, steps=2)


def test_unprepared_entry_is_named_in_the_error(store, tmp_path):
    with pytest.raises(DataError, match="9zzz is not prepared"):
        train(changed(CONFIG, entry="9zzz"), store, tmp_path, steps=1)


def test_learning_rate_warms_up_and_decays():
    schedule = OptimizerConfig()
    assert schedule.rate(0) == pytest.approx(1.8e-6)
    assert schedule.rate(999) == schedule.rate(49_999) == pytest.approx(1.8e-3)
    assert schedule.rate(50_000) == pytest.approx(1.8e-3 * 0.95)
