"""The pipeline as a workload: the batches of training, and each rank its own."""

import pytest
import torch

from bench.simulation.simulate import simulate
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError
from workloads.workload import Setting

WORKLOAD = catalogue()["pipeline"]


def program(store, rank=0, **axes):
    setting = Setting(device=torch.device("cpu"), store=store.root, rank=rank, ranks=2)
    return WORKLOAD.build(WORKLOAD.configure({"tokens": 32} | axes), setting)


def batch_of(running):
    for phase in running.phases:
        running.run(phase)
    return list(running.tensors()["inputs"])


def test_it_makes_the_batches_that_training_sees(store):
    axes = {"tokens": 32, "entry": "8vkf", "preset": "tiny", "atoms": 384}
    training = catalogue()["alphafold3"]
    setting = Setting(device=torch.device("cpu"), store=store.root)
    theirs = training.source(training.configure(axes), setting).batch(0)
    for ours, other in zip(batch_of(program(store)), theirs.values(), strict=True):
        assert torch.equal(ours, other)


def test_ranks_draw_different_examples(store):
    first, second = batch_of(program(store)), batch_of(program(store, rank=1))
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_predicted_bytes_are_those_of_a_batch(store):
    running = program(store)
    nbytes = sum(tensor.numel() * tensor.element_size() for tensor in batch_of(running))
    config = WORKLOAD.configure({"tokens": 32})
    assert simulate(WORKLOAD, config).peak.nbytes == nbytes == WORKLOAD.facts(config).minimum_bytes
    assert running.outcome()["token"] == 32


def test_a_crop_larger_than_its_structure_is_refused(store):
    with pytest.raises(UnsupportedError, match="would measure padding"):
        program(store, entry="1ubq", tokens=100)
