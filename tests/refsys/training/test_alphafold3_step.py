"""Laws of a full training step: identical chains, the last recycling iteration, phases."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from support.atoms import with_atoms, with_labels, with_templates
from support.trunks import CONFIG, FLOAT64, random_batch, randomize

from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Examples
from refsys.data.batches.labels import symmetries_of
from refsys.training.alphafold3_step import AlphaFold3Training
from refsys.training.stages import STAGES


class Exchanged(Mapping):
    """A structure record in which two chains have each other's labels."""

    def __init__(self, structure, one, two):
        self._structure, self.facts, self.path = structure, structure.facts, structure.path
        chain = np.repeat(structure["residue_chain"], np.diff(structure["residue_first_atom"]))
        rows = np.arange(len(chain))
        rows[chain == one], rows[chain == two] = (
            np.flatnonzero(chain == two),
            np.flatnonzero(chain == one),
        )
        self._rows = rows

    def __getitem__(self, name):
        column = self._structure[name]
        return column[self._rows] if name in {"atom_position", "atom_resolved"} else column

    def __iter__(self):
        return iter(self._structure)

    def __len__(self):
        return len(self._structure)


def training(**options):
    made = AlphaFold3Training(
        CONFIG, FLOAT64, stage=STAGES["fine_tuning_1"], samples=2, seed=3, **options
    )
    randomize(made.model)
    return made


@pytest.fixture(scope="module")
def batch():
    return with_templates(with_labels(with_atoms(random_batch(9, 3))))


@pytest.mark.bits
def test_permutation_of_identical_chains_leaves_the_loss(store):
    """Chains B and C of 2q2k are copies, modelled differently; which is which must not matter."""
    spec = ExampleSpec(tokens=96, alignment_rows=2, crop="contiguous", whole=True)
    examples = [Examples(store, ["2q2k"], spec) for _ in range(2)]
    structure = examples[1]._examples[0].structure
    assert symmetries_of(structure).chain_group.tolist()[1:3] == [1, 1]
    exchanged = Exchanged(structure, 1, 2)
    object.__setattr__(examples[1]._examples[0], "structure", exchanged)
    made, rollout, found = training(), None, []
    for number, one in enumerate(examples):
        batch = one[0]
        if rollout is None:
            # Near the label, so that there is one best assignment.
            rollout = batch["atom_position"].double() + 0.5 * torch.randn(
                *batch["atom_position"].shape, generator=torch.Generator().manual_seed(1)
            )
        elif number == 1:
            differ = batch["atom_position"] != examples[0][0]["atom_position"]
            assert differ.any(-1).sum() > 100, "the chains were exchanged"
        found.append(one.relabelled(batch, rollout, 0))
    names = ("atom_position", "atom_resolved", "pseudo_beta", "pseudo_beta_mask")
    for name in names:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=0)
    losses = []
    for labelled in found:
        small = AlphaFold3Training(
            CONFIG, FLOAT64, stage=STAGES["fine_tuning_1"], samples=1, seed=3, checkpointing=False
        )
        small.model.load_state_dict(made.model.state_dict())
        with torch.no_grad():
            context = small.context(labelled, 0)
            state = small.model.trunk(labelled, context, 1)
            condition = small.model.condition(state, labelled, context)
            losses.append(float(small.loss(state, condition, rollout, labelled, context)))
    assert losses[0] == losses[1]


def test_only_the_last_recycle_is_differentiated(batch):
    made = training(cycles=3, checkpointing=False)
    seen = []

    def note(module, inputs, outputs):
        s_z = inputs[:2]
        seen.append([any(x.requires_grad for x in tensors) for tensors in (s_z, outputs)])

    made.model.recycling_embedder.register_forward_hook(note)
    made.forward(batch, 0).backward()
    assert seen == [[False, False], [False, False], [False, True]]
    gradient = made.model.recycling_embedder.norm_z.weight.grad
    assert gradient.abs().max() > 0, "the last cycle's own embedding is differentiated"


@pytest.mark.bits
def test_phases_in_turn_are_the_whole_forward_pass(batch):
    made = training()
    passing = made.begin(batch, 4)
    for phase in made.forward_phases:
        assert passing.loss is None
        passing.phases[phase]()
    assert torch.equal(passing.loss, made.forward(batch, 4))
    assert passing.rollout_BA3.shape == batch["atom_position"].shape


def test_labels_are_permuted_to_the_rollout_between_phases(batch):
    made = training()
    calls = []

    def relabel(given, rollout_BA3, step):
        calls.append((rollout_BA3.requires_grad, step))
        return given.replaced(atom_position=given["atom_position"] + 1)

    plain = made.forward(batch, 4)
    made.relabel = relabel
    passing = made.begin(batch, 4)
    for phase in made.forward_phases:
        passing.phases[phase]()
    assert calls == [(False, 4)]
    # All labels are shifted alike: every loss is invariant, but for rounding.
    torch.testing.assert_close(passing.loss, plain, rtol=1e-9, atol=0)
