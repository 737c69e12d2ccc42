"""Sampling: chains and interfaces with their weights, or each example once an epoch."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Examples
from refsys.data.batches.sampling import EPOCHS, Choice, Epochs, Weighted, sampling
from refsys.errors import ArgumentError

SPEC = ExampleSpec(tokens=48, alignment_rows=8, whole=True, atoms=768, batch=4)


class Columns(dict):
    """Columns, with facts."""


def example(kinds, clusters, pairs=()):
    chains = [{"kind": kind, "name": str(place)} for place, kind in enumerate(kinds)]
    structure = Columns(interface_chains=np.array(pairs, np.int32).reshape(-1, 2))
    structure.facts = {"chains": chains}
    return SimpleNamespace(structure=structure, clusters=clusters)


class TestWeighted:
    """Two proteins of one cluster with a ligand each, and a nucleic acid."""

    EXAMPLES = (
        example(["protein", "ligand", "protein"], "pla", [(0, 1), (0, 2)]),
        example(["protein", "ligand", "dna"], "pld", [(0, 1), (1, 2)]),
    )

    def test_weights_are_those_of_the_supplement(self):
        found = Weighted(self.EXAMPLES)
        assert dict(zip(found.choice, found.weight.tolist(), strict=True)) == {
            Choice(0, (0,)): 0.5 / 2 * 3,
            Choice(0, (1,)): 0.5 / 2 * 1,
            Choice(0, (2,)): 0.5 * 3,
            Choice(0, (0, 1)): 1 / 2 * (3 + 1),
            Choice(0, (0, 2)): 1 * (3 + 3),
            Choice(1, (0,)): 0.5 / 2 * 3,
            Choice(1, (1,)): 0.5 / 2 * 1,
            Choice(1, (2,)): 0.5 * 3,
            Choice(1, (0, 1)): 1 / 2 * (3 + 1),
            Choice(1, (1, 2)): 1 * (1 + 3),
        }

    def test_they_are_drawn_with_their_weights(self):
        found = Weighted(self.EXAMPLES)
        steps = 4000
        counts = Counter(next(found.choices(7, step, 2)) for step in range(steps))
        expected = found.weight / found.weight.sum() * steps
        assert stats.chisquare([counts[c] for c in found.choice], expected).pvalue > 1e-3

    def test_substitutes_are_others(self):
        found = Weighted(self.EXAMPLES)
        for step in range(50):
            choices = list(found.choices(7, step, 0))
            assert len(set(choices)) == len(choices) > 3

    def test_real_ones_have_a_cluster_each(self, everything):
        """A ribosome has hundreds of chains, and most of the weight."""
        examples = [everything.open(entry) for entry in everything.entries()]
        found = Weighted(examples)
        share = Counter()
        for choice, weight in zip(found.choice, found.weight.tolist(), strict=True):
            share[examples[choice.example].entry] += weight / found.weight.sum()
        assert share["6zu5"] > share["6rw4"] > share["5fkw"] > share["1ubq"]


class TestEpochs:
    @pytest.mark.parametrize("total", [1, 3, 8])
    def test_each_example_comes_once_an_epoch(self, total):
        count, found = 12, Epochs(12, total)
        seen = [next(found.choices(5, *divmod(k, total))).example for k in range(5 * count)]
        epochs = [seen[k : k + count] for k in range(0, 5 * count, count)]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 5

    def test_examples_come_at_every_place_as_often(self):
        found = Epochs(6, 1)
        counts = Counter(
            (step % 6, next(found.choices(1, step, 0)).example) for step in range(6 * 800)
        )
        assert stats.chisquare([counts[a, b] for a in range(6) for b in range(6)]).pvalue > 1e-3

    def test_conformers_and_templates_vary_between_them(self, everything):
        """The only example, epoch after epoch."""
        spec = replace(SPEC, batch=1, tokens=200, atoms=0, sampling=EPOCHS, crop="contiguous")
        examples = Examples(everything, ["7bqu"], spec)
        batches = [examples[step] for step in range(12)]
        assert len({batch["template_residue_type"].numpy().tobytes() for batch in batches}) > 1
        shapes = set()
        for batch in batches:
            arginine = batch["reference_position"][0, batch["reference_space"][0] == 30]
            distance = (arginine[0] - arginine[-1]).norm()
            shapes.add(round(float(distance), 2))
        assert 2 <= len(shapes) <= 4


def test_another_way_does_not_exist():
    with pytest.raises(ArgumentError, match="sampling='mine' does not exist; choose one of"):
        sampling("mine", [], 1)


class TestShares:
    """The ranks' shares are the whole batch."""

    @pytest.mark.parametrize("way", ["weighted", "epochs"])
    @pytest.mark.parametrize("entries", [["1kd8"], ["1kd8", "8vkf", "1ubq"]])
    def test_of_four_ranks(self, store, way, entries):
        spec = replace(SPEC, sampling=way)
        whole = Examples(store, entries, spec)
        shares = [Examples(store, entries, spec.share(rank, 4)) for rank in range(4)]
        for step in (0, 5):
            batch = whole[step]
            for rank, share in enumerate(shares):
                own = share[step]
                assert share.drawn(step)[0].choice == whole.drawn(step)[rank].choice
                assert all(torch.equal(own[name][0], batch[name][rank]) for name in batch)

    def test_ranks_of_a_context_group_hold_the_same(self):
        shares = [SPEC.share(rank, 8, context=4) for rank in range(8)]
        assert [share.first for share in shares] == [0, 0, 0, 0, 2, 2, 2, 2]
        assert {share.batch for share in shares} == {2}
        assert {share.total for share in shares} == {4}
        assert len({*shares}) == 2

    @pytest.mark.parametrize(("ranks", "context"), [(3, 1), (8, 3), (2, 4), (16, 2)])
    def test_what_cannot_be_shared_out_is_refused(self, ranks, context):
        with pytest.raises(ArgumentError, match="4 examples cannot be shared out evenly"):
            SPEC.share(0, ranks, context)
