"""Training of the full model: equal bits over workers, stops and kills; stages; averages."""

import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from refsys.config import preset
from refsys.data.store.columns import open_columns, write_columns
from refsys.errors import ArgumentError, CheckpointError
from refsys.options import changed
from refsys.precision import precision
from refsys.run_config import OptimizerConfig, run_config
from refsys.training.alphafold3_step import AlphaFold3Training
from refsys.training.checkpoint import checkpoints, latest, load_weights, save
from refsys.training.stages import STAGES
from refsys.training.train import train

CONFIG = run_config(
    preset="tiny",
    entries=("3en2-assembly1", "2q2k"),
    tokens=16,
    alignment_rows=4,
    samples=1,
    cycles=2,
    crop="interface",
    learning_rate=5e-3,
    warmup_steps=4,
    workers=0,
)
STEPS = 8
PHASES = ("trunk", "rollout", "permutation", "diffusion", "backward", "optimizer")


def log(folder):
    return [
        json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def losses(folder):
    return [(line["loss"], line["losses"], line["cycles"]) for line in log(folder)]


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    """An undisturbed run, loaded in the training process."""
    folder = tmp_path_factory.mktemp("whole")
    assert train(CONFIG, store, folder, steps=STEPS) == STEPS
    return folder


def test_log_has_every_loss_and_the_time_of_every_phase(folder):
    for line in log(folder):
        assert set(line["seconds"]) == {"data", *PHASES}
        assert {"mse", "bond", "smooth_lddt", "diffusion", "distogram"} < set(line["losses"])
        assert {"plddt", "pae", "pde", "resolved"} < set(line["losses"])
        assert all(np.isfinite(value) for value in line["losses"].values())
    assert {line["cycles"] for line in log(folder)} == {1, 2}


@pytest.mark.bits
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_full_model_has_the_same_bits_for_any_number_of_workers(store, tmp_path, folder, workers):
    train(changed(CONFIG, workers=workers), store, tmp_path, steps=STEPS)
    assert losses(tmp_path) == losses(folder)


@pytest.mark.bits
def test_full_model_has_the_same_bits_after_any_stop(store, tmp_path, folder):
    for number, stop in enumerate((1, 2, 5, STEPS)):
        config = changed(CONFIG, workers=number % 2)
        assert train(config, store, tmp_path, steps=stop) == stop
    assert losses(tmp_path) == losses(folder)


def train_until(step, phase, store, folder):
    """Die before a phase of a step, as if the power had failed."""

    def die(at, name):
        if (at, name) == (step, phase):
            os.kill(os.getpid(), signal.SIGKILL)

    train(CONFIG, store, folder, steps=STEPS, checkpoint_every=1, on_phase=die)


@pytest.mark.bits
def test_full_model_has_the_same_bits_after_a_kill_at_every_phase_boundary(store, tmp_path, folder):
    # Forked processes need not import everything again.
    fork = get_context("fork")
    for step, phase in enumerate(PHASES):
        process = fork.Process(target=train_until, args=(step, phase, store, tmp_path))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert len(log(tmp_path)) == step
    assert train(CONFIG, store, tmp_path, steps=STEPS) == STEPS
    assert losses(tmp_path) == losses(folder)


def small_training(**options):
    config, table = preset("tiny"), precision("float32")
    return AlphaFold3Training(config, table, stage=STAGES["initial"], samples=1, **options)


class TestWeights:
    def test_averages_are_stored_and_loaded(self, folder):
        training = small_training()
        load_weights(latest(folder), training, averaged=False)
        last = torch.cat([p.detach().flatten() for p in training.parameters])
        run = load_weights(latest(folder), training, averaged=True)
        averaged = torch.cat([p.detach().flatten() for p in training.parameters])
        assert run["preset"] == "tiny"
        # The mean of the weights after each step: between the start and the end, and neither.
        training.seed = CONFIG.seed
        training.initialize()
        start = torch.cat([p.detach().flatten() for p in training.parameters])
        assert 0 < (averaged - last).norm() < 0.7 * (start - last).norm()
        assert (averaged - start).norm() > 0.3 * (start - last).norm()

    def test_stage_starts_from_the_weights_of_another(self, store, folder, tmp_path):
        start = str(latest(folder).resolve())
        config = changed(CONFIG, stage="fine_tuning_1", start=start)
        train(config, store, tmp_path, steps=1)
        training = small_training()
        load_weights(Path(start), training, averaged=False)
        before = torch.cat([p.detach().flatten() for p in training.parameters])
        load_weights(latest(tmp_path), training, averaged=False)
        after = torch.cat([p.detach().flatten() for p in training.parameters])
        # One step moves no weight further than the learning rate, give or take Adam's rounding.
        assert 0 < (after - before).abs().max() < 2e-3

    def test_checkpoint_of_another_model_is_refused(self, folder):
        mini = AlphaFold3Training(
            preset("mini"), precision("float32"), stage=STAGES["initial"], samples=1
        )
        with pytest.raises(CheckpointError, match="choose its model and preset"):
            load_weights(latest(folder), mini, averaged=True)

    def test_folder_without_a_checkpoint_is_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match="has no checkpoint"):
            latest(tmp_path)

    def test_average_is_the_weighted_mean_of_the_weights_after_each_step(self):
        """Weights 1, d, d², ... from the last step back, divided by their sum."""
        training, steps, decay = small_training(), 4, 0.999
        training.initialize()
        seen = []
        for step in range(steps):
            for parameter in training.parameters:
                parameter.grad = torch.ones_like(parameter)
            training.update(step)
            seen.append([p.detach().double().clone() for p in training.parameters])
        weights = decay ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
        weights = weights / weights.sum()
        for number, found in enumerate(training.averages):
            expected = sum(w * after[number] for w, after in zip(weights, seen, strict=True))
            torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-8)

    def test_initial_weights_are_at_most_a_tenth_of_the_average_after_fifty_steps(self, tmp_path):
        """The share of the initial weights, which are ones here; all later ones are zero."""
        training = small_training()
        training.materialize_moments()
        with torch.no_grad():
            for parameter in training.parameters:
                parameter.fill_(1.0)
        training.restart_averages()
        with torch.no_grad():
            for parameter in training.parameters:
                parameter.zero_()
        for step in range(50):
            for parameter in training.parameters:
                parameter.grad = torch.zeros_like(parameter)
            training.update(step)
        folding = small_training()
        load_weights(save(tmp_path, training, 50, {}), folding, averaged=True)
        share = torch.cat([p.detach().flatten() for p in folding.parameters])
        assert share.abs().max() <= 0.1

    def test_weight_of_a_step_tends_to_that_of_an_exponential_average(self):
        schedule = OptimizerConfig(average=0.99)
        weights = [schedule.average_weight(step) for step in range(3000)]
        assert weights[0] == 1.0
        assert weights[1] == pytest.approx(1 / 1.99)
        assert weights == sorted(weights, reverse=True)
        assert weights[-1] == pytest.approx(0.01, rel=1e-9)

    def test_averages_of_another_kind_are_refused_but_a_run_may_start_from_their_weights(
        self, store, folder, tmp_path
    ):
        """A checkpoint whose averages lack the bias correction."""
        columns = open_columns(latest(folder), "checkpoint")
        facts = {name: columns.facts[name] for name in ("step", "run")}
        path = tmp_path / "checkpoints" / latest(folder).name
        write_columns(path, "checkpoint", dict(columns.items()), facts)
        training = small_training()
        message = "its averages of the weights are uncorrected"
        with pytest.raises(CheckpointError, match=message):
            load_weights(path, training, averaged=True)
        with pytest.raises(CheckpointError, match=message):
            train(CONFIG, store, tmp_path, steps=STEPS + 1)
        assert load_weights(path, training, averaged=False)["preset"] == "tiny"


def test_unknown_stage_or_model_is_refused(store, tmp_path):
    for change, message in (
        ({"stage": "second"}, "stage='second' does not exist"),
        ({"model": "alphafold9"}, "model='alphafold9' does not exist"),
    ):
        with pytest.raises(ArgumentError, match=message):
            train(changed(CONFIG, **change), store, tmp_path, steps=1)
    assert not checkpoints(tmp_path / "checkpoints")


def test_stages_have_the_published_sizes():
    full = preset("full")
    assert [stage.crop(full) for stage in STAGES.values()] == [384, 640, 768, 768]
    assert [stage.samples_of(full) for stage in STAGES.values()] == [48, 32, 32, 32]
    assert STAGES["fine_tuning_1"].crop(preset("tiny")) == 104


def test_recycling_iterations_are_sampled_uniformly_by_step_alone():
    one, two = (small_training(cycles=4, draw_cycles=True) for _ in range(2))
    drawn = [one.cycles_of(step) for step in range(400)]
    assert drawn == [two.cycles_of(step) for step in range(400)]
    counts = np.bincount(drawn, minlength=5)[1:]
    assert counts.sum() == 400
    assert counts.min() > 70
    assert small_training(cycles=3).cycles_of(7) == 3
