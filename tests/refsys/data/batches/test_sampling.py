"""Sampling of chains and interfaces by weight, or of each example once per epoch."""

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
    """Columns of a record, with facts."""


def example(kinds, clusters, pairs=()):
    chains = [{"kind": kind, "name": str(index)} for index, kind in enumerate(kinds)]
    structure = Columns(interface_chains=np.array(pairs, np.int32).reshape(-1, 2))
    structure.facts = {"chains": chains}
    return SimpleNamespace(structure=structure, clusters=clusters)


class TestWeighted:
    """Two proteins of one cluster with a ligand each, and a nucleic acid."""

    EXAMPLES = (
        example(["protein", "ligand", "protein"], "pla", [(0, 1), (0, 2)]),
        example(["protein", "ligand", "dna"], "pld", [(0, 1), (1, 2)]),
    )

    def test_weights_equal_those_of_the_supplement(self):
        sampler = Weighted(self.EXAMPLES)
        assert dict(zip(sampler.choice, sampler.weight.tolist(), strict=True)) == {
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

    def test_choices_are_sampled_in_proportion_to_weights(self):
        sampler = Weighted(self.EXAMPLES)
        steps = 4000
        counts = Counter(next(sampler.choices(7, step, 2)) for step in range(steps))
        expected = sampler.weight / sampler.weight.sum() * steps
        assert stats.chisquare([counts[c] for c in sampler.choice], expected).pvalue > 1e-3

    def test_substitutes_are_distinct(self):
        sampler = Weighted(self.EXAMPLES)
        for step in range(50):
            choices = list(sampler.choices(7, step, 0))
            assert len(set(choices)) == len(choices) > 3

    def test_weights_of_real_entries_grow_with_their_chains(self, everything):
        """A ribosome has hundreds of chains, each of its own cluster, and most of the weight."""
        examples = [everything.open(entry) for entry in everything.entries()]
        sampler = Weighted(examples)
        share = Counter()
        for choice, weight in zip(sampler.choice, sampler.weight.tolist(), strict=True):
            share[examples[choice.example].entry] += weight / sampler.weight.sum()
        assert share["6zu5"] > share["6rw4"] > share["5fkw"] > share["1ubq"]


class TestEpochs:
    @pytest.mark.parametrize("total", [1, 3, 8])
    def test_epoch_has_every_example_once(self, total):
        count, sampler = 12, Epochs(12, total)
        sampled = [next(sampler.choices(5, *divmod(k, total))).example for k in range(5 * count)]
        epochs = [sampled[k : k + count] for k in range(0, 5 * count, count)]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 5

    def test_positions_in_an_epoch_are_uniform(self):
        sampler = Epochs(6, 1)
        counts = Counter(
            (step % 6, next(sampler.choices(1, step, 0)).example) for step in range(6 * 800)
        )
        assert stats.chisquare([counts[a, b] for a in range(6) for b in range(6)]).pvalue > 1e-3

    def test_conformers_and_templates_vary_between_epochs(self, everything):
        """The only example is in every epoch."""
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


def test_unknown_sampling_is_refused():
    with pytest.raises(ArgumentError, match="sampling='mine' does not exist; choose one of"):
        sampling("mine", [], 1)


class TestShares:
    """Shares of the ranks make up the global batch."""

    @pytest.mark.parametrize("strategy", ["weighted", "epochs"])
    @pytest.mark.parametrize("entries", [["1kd8"], ["1kd8", "8vkf", "1ubq"]])
    def test_shares_of_four_ranks_equal_the_global_batch(self, store, strategy, entries):
        spec = replace(SPEC, sampling=strategy)
        whole = Examples(store, entries, spec)
        shares = [Examples(store, entries, spec.share(rank, 4)) for rank in range(4)]
        for step in (0, 5):
            batch = whole[step]
            for rank, share in enumerate(shares):
                batch_of_rank = share[step]
                assert share.sampled(step)[0].choice == whole.sampled(step)[rank].choice
                assert all(torch.equal(batch_of_rank[name][0], batch[name][rank]) for name in batch)

    def test_ranks_of_a_context_group_have_the_same_share(self):
        shares = [SPEC.share(rank, 8, context=4) for rank in range(8)]
        assert [share.first for share in shares] == [0, 0, 0, 0, 2, 2, 2, 2]
        assert {share.batch for share in shares} == {2}
        assert {share.total for share in shares} == {4}
        assert len({*shares}) == 2

    @pytest.mark.parametrize(("ranks", "context"), [(3, 1), (8, 3), (2, 4), (16, 2)])
    def test_uneven_share_is_refused(self, ranks, context):
        with pytest.raises(ArgumentError, match="4 examples cannot be split evenly"):
            SPEC.share(0, ranks, context)
