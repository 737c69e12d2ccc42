"""Crops: budgets, centres, and distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tokens import line, structure_of

from refsys.data.batches.crop import CROPS, contiguous_crop, crop_tokens, spatial_crop
from refsys.streams import Draw

chain_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def firsts(lengths):
    return np.cumsum([0, *lengths]).astype(np.int32)


@given(chain_lengths, st.integers(1, 100), st.integers(0, 10**6))
def test_contiguous_crop_has_one_run_per_chain_and_fills_the_budget(lengths, budget, step):
    chains = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    budget = min(budget, len(chains))
    crop = contiguous_crop(firsts(lengths), budget, Draw(1, "crop", step))
    assert len(crop) == budget
    assert (np.diff(crop) > 0).all()
    for chain in np.unique(chains[crop]):
        places = crop[chains[crop] == chain]
        assert (np.diff(places) == 1).all()


@given(st.integers(2, 300), st.integers(1, 60), st.integers(0, 10**6), st.sampled_from([1, 30]))
def test_spatial_crop_has_the_modelled_tokens_nearest_to_its_centre(count, budget, step, wide):
    random = np.random.default_rng(count)
    centers = (wide * random.normal(size=(count, 3))).astype(np.float32)
    modelled, near = random.random(count) > 0.3, random.random(count) > 0.7
    modelled[0] = near[0] = True
    structure = structure_of(centers, modelled=np.flatnonzero(modelled))
    middles = np.flatnonzero(modelled & near)
    crop = spatial_crop(structure, middles, budget, Draw(1, "crop", step))
    assert len(crop) == min(budget, modelled.sum())
    assert modelled[crop].all()
    assert (np.diff(crop) > 0).all()
    number = Draw(1, "crop/middle", step).below(len(middles))
    distance = np.square(centers - centers[middles[number]]).sum(1)
    outside = np.setdiff1d(np.flatnonzero(modelled), crop)
    assert not outside.size or distance[crop].max() <= distance[outside].min()


@pytest.mark.parametrize("kind", CROPS)
def test_crop_has_all_tokens_when_they_fit_the_budget(kind):
    crop = crop_tokens(kind, line(5), budget=8, draw=Draw(1, "crop"))
    assert crop.tolist() == [0, 1, 2, 3, 4]


def middles_of(structure, kind="interface", focus=()):
    """Return the centres of crops: those of crops of a single token."""
    return {
        int(crop_tokens(kind, structure, 1, Draw(1, "c", step), focus)[0]) for step in range(200)
    }


def test_interface_crop_is_centred_at_the_interface():
    assert middles_of(line(40, near=range(18, 22))) == {18, 19, 20, 21}


class TestFocus:
    """Three chains in a line; the first two meet at token 10, the last two at token 20."""

    STRUCTURE = line(
        30,
        chains=np.repeat([0, 1, 2], 10),
        modelled=set(range(30)) - {5},
        near=(8, 9, 10, 11, 19, 20),
        interfaces={(0, 1): (8, 9, 10, 11), (1, 2): (19, 20)},
    )

    def test_spatial_crop_is_centred_in_the_focus_chains(self):
        assert middles_of(self.STRUCTURE, "spatial", (0,)) == set(range(10)) - {5}
        assert middles_of(self.STRUCTURE, "spatial", (1, 2)) == set(range(10, 30))

    def test_interface_crop_is_centred_where_the_focus_chains_meet(self):
        assert middles_of(self.STRUCTURE, focus=(1,)) == {10, 11, 19}
        assert middles_of(self.STRUCTURE, focus=(0, 1)) == {8, 9, 10, 11}
        assert middles_of(self.STRUCTURE, focus=(1, 2)) == {19, 20}

    def test_interface_crop_is_centred_anywhere_in_the_focus_chains_without_an_interface(self):
        apart = self.STRUCTURE | {"token_interface": np.zeros(30, bool)}
        apart |= {"interface_first": np.array([0, 0, 0]), "interface_token": np.empty(0, int)}
        assert middles_of(apart, focus=(2,)) == set(range(20, 30))
        assert middles_of(apart, focus=(0, 1)) == set(range(20)) - {5}

    def test_spatial_crop_is_centred_in_other_chains_when_the_focus_is_not_modelled(self):
        missing = line(30, chains=np.repeat([0, 1, 2], 10), modelled=range(10, 30))
        assert middles_of(missing, "spatial", (0,)) == set(range(10, 30))

    def test_contiguous_crop_ignores_the_focus(self):
        draw = Draw(3, "c", 1)
        one, two = (crop_tokens("contiguous", self.STRUCTURE, 7, draw, f) for f in ((), (2,)))
        assert one.tolist() == two.tolist()


def test_crop_kind_falls_back_without_interface_or_positions():
    draw, budget = Draw(1, "c", 3), 7
    kinds = ("interface", "spatial")
    one, two = (crop_tokens(kind, line(40), budget=budget, draw=draw) for kind in kinds)
    assert one.tolist() == two.tolist()
    unmodelled = line(40, near=range(40), modelled=())
    expected = contiguous_crop(firsts([40]), budget, draw).tolist()
    for kind in CROPS:
        crop = crop_tokens(kind, unmodelled, budget=budget, draw=draw)
        assert crop.tolist() == expected


def test_contiguous_crop_starts_are_uniform():
    starts = [contiguous_crop(firsts([10]), 6, Draw(1, "crop", k))[0] for k in range(5000)]
    counts = np.bincount(starts, minlength=5)
    assert ((counts - 1000) ** 2 / 1000).sum() < 23.5


def test_mixed_crops_have_proportions_one_two_two():
    tokens = line(40, near=range(18, 22))
    counts = dict.fromkeys(CROPS[:3], 0)
    for step in range(1000):
        draw = Draw(1, "c", step)
        crop = crop_tokens("mixed", tokens, budget=5, draw=draw).tolist()
        for kind in counts:
            counts[kind] += crop == crop_tokens(kind, tokens, budget=5, draw=draw).tolist()
    # Crops of different kinds are sometimes equal.
    assert counts["contiguous"] == pytest.approx(200, abs=60)
    assert counts["spatial"] == pytest.approx(400, abs=80)
    assert counts["interface"] == pytest.approx(400, abs=80)
