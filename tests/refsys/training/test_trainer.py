"""One definition of the step: trained, measured and traced steps are equal."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import refsys.training.train
from refsys.ops.rounds import shortened
from refsys.options import changed
from refsys.training.train import train
from refsys.training.trainer import Trainer
from workloads.catalogue import catalogue
from workloads.workload import ExecutionContext

STEPS = 5
AXES = {
    "alphafold3": {"entry": "8vkf", "tokens": 16, "alignment_rows": 4, "samples": 1},
    "alphafold3-trunk": {"entry": "8vkf", "tokens": 16, "alignment_rows": 4},
}
# Copies of inputs, and what a fake tensor does in place of a value.
BOOKKEEPING = {"prim.device.default", "aten.detach.default"}


class Operators(TorchDispatchMode):
    """Names of the operators that run, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if str(function) not in BOOKKEEPING:
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def operators_of(trainer):
    """Return the operators of each phase of a step on the device."""
    names = {}
    for name, run in trainer.phases.items():
        with Operators() as operators:
            run()
        if name not in trainer.host_phases:
            names[name] = operators.names
    return names


@pytest.fixture(params=AXES)
def workload(request):
    return catalogue()[request.param]


@pytest.fixture
def case(workload):
    """Return a case that learns so fast that a step shows which batches came before it."""
    config = workload.configure(AXES[workload.name] | {"workers": 0})
    return replace(config, run=changed(config.run, learning_rate=5e-3, warmup_steps=1))


@pytest.mark.bits
def test_measured_steps_have_the_bits_of_trained_steps(workload, case, store, tmp_path):
    train(case.run, store, tmp_path, steps=STEPS)
    lines = (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()
    program = workload.build(case, ExecutionContext(device=torch.device("cpu"), store=store.root))
    losses = []
    for _ in range(STEPS):
        for phase in program.phases:
            program.run(phase)
        losses.append(program.outcome()["loss"])
    assert losses == [json.loads(line)["loss"] for line in lines]


def test_trained_measured_and_traced_steps_run_the_same_operators(
    workload, case, store, tmp_path, monkeypatch
):
    trained = []
    build = refsys.training.train.build_trainer

    def built(*arguments, **options):
        trained.append(build(*arguments, **options))
        return trained[-1]

    monkeypatch.setattr(refsys.training.train, "build_trainer", built)
    train(case.run, store, tmp_path, steps=1)
    measured = workload.build(
        case, ExecutionContext(device=torch.device("cpu"), store=store.root)
    ).trainer
    for phase in measured.phases.values():
        phase()
    with FakeTensorMode(), shortened():
        traced = workload.build_abstract(case).trainer
        traced_operators = operators_of(traced)
    with shortened():
        measured_operators = operators_of(measured)
        trained_operators = operators_of(_again(trained[0], case, store))
    assert type(trained[0]) is type(measured) is type(traced) is Trainer
    kinds = {type(trainer.training) for trainer in (trained[0], measured, traced)}
    assert len(kinds) == 1
    assert list(trained[0].phases) == list(measured.phases) == list(traced.phases)
    assert trained_operators == measured_operators
    assert measured_operators.keys() == traced_operators.keys()
    for phase, names in measured_operators.items():
        assert Counter(names) == Counter(traced_operators[phase]), phase


def _again(trainer, case, store):
    """Return a trainer that goes on: its own batches have ended with the run."""
    from refsys.training.loading import Batches

    batches = Batches(case.run, store, torch.device("cpu"), steps=range(1, 3))
    return Trainer(case.run, trainer.training, batches, done=1)


@pytest.mark.bits
def test_any_number_of_loader_processes_gives_the_same_measured_bits(workload, case, store):
    def losses(workers):
        changed_case = replace(case, run=changed(case.run, workers=workers))
        context = ExecutionContext(device=torch.device("cpu"), store=store.root)
        program = workload.build(changed_case, context)
        values = []
        for _ in range(2):
            for phase in program.phases:
                program.run(phase)
            values.append(program.outcome()["loss"])
        return values

    expected = losses(0)
    assert expected[0] != expected[1]
    assert losses(1) == losses(2) == expected
