"""Crops: budgets, what they are about, how they are drawn."""

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
def test_contiguous_is_one_run_a_chain_and_meets_the_budget(lengths, budget, step):
    chains = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    budget = min(budget, len(chains))
    kept = contiguous_crop(firsts(lengths), budget, Draw(1, "crop", step))
    assert len(kept) == budget
    assert (np.diff(kept) > 0).all()
    for chain in np.unique(chains[kept]):
        places = kept[chains[kept] == chain]
        assert (np.diff(places) == 1).all()


@given(st.integers(2, 300), st.integers(1, 60), st.integers(0, 10**6), st.sampled_from([1, 30]))
def test_spatial_is_a_ball_of_modelled_tokens_about_one_of_the_middles(count, budget, step, wide):
    random = np.random.default_rng(count)
    centers = (wide * random.normal(size=(count, 3))).astype(np.float32)
    modelled, near = random.random(count) > 0.3, random.random(count) > 0.7
    modelled[0] = near[0] = True
    structure = structure_of(centers, modelled=np.flatnonzero(modelled))
    middles = np.flatnonzero(modelled & near)
    kept = spatial_crop(structure, middles, budget, Draw(1, "crop", step))
    assert len(kept) == min(budget, modelled.sum())
    assert modelled[kept].all()
    assert (np.diff(kept) > 0).all()
    number = Draw(1, "crop/middle", step).below(len(middles))
    distance = np.square(centers - centers[middles[number]]).sum(1)
    left = np.setdiff1d(np.flatnonzero(modelled), kept)
    assert not left.size or distance[kept].max() <= distance[left].min()


@pytest.mark.parametrize("kind", CROPS)
def test_what_fits_is_kept_whole(kind):
    kept = crop_tokens(kind, line(5), budget=8, draw=Draw(1, "crop"))
    assert kept.tolist() == [0, 1, 2, 3, 4]


def middles_of(structure, kind="interface", focus=()):
    """Crops of one token are their own middle."""
    return {
        int(crop_tokens(kind, structure, 1, Draw(1, "c", step), focus)[0]) for step in range(200)
    }


def test_interface_crops_are_about_the_interface():
    assert middles_of(line(40, near=range(18, 22))) == {18, 19, 20, 21}


class TestFocus:
    """Three chains in a line; the first two meet at 10, the others at 20."""

    STRUCTURE = line(
        30,
        chains=np.repeat([0, 1, 2], 10),
        modelled=set(range(30)) - {5},
        near=(8, 9, 10, 11, 19, 20),
        interfaces={(0, 1): (8, 9, 10, 11), (1, 2): (19, 20)},
    )

    def test_a_spatial_crop_has_its_middle_in_the_chains(self):
        assert middles_of(self.STRUCTURE, "spatial", (0,)) == set(range(10)) - {5}
        assert middles_of(self.STRUCTURE, "spatial", (1, 2)) == set(range(10, 30))

    def test_an_interface_crop_has_it_where_they_meet(self):
        assert middles_of(self.STRUCTURE, focus=(1,)) == {10, 11, 19}
        assert middles_of(self.STRUCTURE, focus=(0, 1)) == {8, 9, 10, 11}
        assert middles_of(self.STRUCTURE, focus=(1, 2)) == {19, 20}

    def test_where_nothing_is_near_it_is_anywhere_in_the_chains(self):
        apart = self.STRUCTURE | {"token_interface": np.zeros(30, bool)}
        apart |= {"interface_first": np.array([0, 0, 0]), "interface_token": np.empty(0, int)}
        assert middles_of(apart, focus=(2,)) == set(range(20, 30))
        assert middles_of(apart, focus=(0, 1)) == set(range(20)) - {5}

    def test_a_chain_that_was_not_modelled_has_it_elsewhere(self):
        missing = line(30, chains=np.repeat([0, 1, 2], 10), modelled=range(10, 30))
        assert middles_of(missing, "spatial", (0,)) == set(range(10, 30))

    def test_contiguous_crops_have_none(self):
        draw = Draw(3, "c", 1)
        one, two = (crop_tokens("contiguous", self.STRUCTURE, 7, draw, f) for f in ((), (2,)))
        assert one.tolist() == two.tolist()


def test_without_an_interface_they_are_spatial_and_without_positions_contiguous():
    draw, budget = Draw(1, "c", 3), 7
    kinds = ("interface", "spatial")
    one, two = (crop_tokens(kind, line(40), budget=budget, draw=draw) for kind in kinds)
    assert one.tolist() == two.tolist()
    unmodelled = line(40, near=range(40), modelled=())
    wanted = contiguous_crop(firsts([40]), budget, draw).tolist()
    for kind in CROPS:
        kept = crop_tokens(kind, unmodelled, budget=budget, draw=draw)
        assert kept.tolist() == wanted


def test_every_start_is_equally_likely():
    starts = [contiguous_crop(firsts([10]), 6, Draw(1, "crop", k))[0] for k in range(5000)]
    counts = np.bincount(starts, minlength=5)
    assert ((counts - 1000) ** 2 / 1000).sum() < 23.5


def test_mixed_is_one_to_two_to_two():
    tokens = line(40, near=range(18, 22))
    counts = dict.fromkeys(CROPS[:3], 0)
    for step in range(1000):
        draw = Draw(1, "c", step)
        kept = crop_tokens("mixed", tokens, budget=5, draw=draw).tolist()
        for kind in counts:
            counts[kind] += kept == crop_tokens(kind, tokens, budget=5, draw=draw).tolist()
    # Crops of several kinds are now and then the same.
    assert counts["contiguous"] == pytest.approx(200, abs=60)
    assert counts["spatial"] == pytest.approx(400, abs=80)
    assert counts["interface"] == pytest.approx(400, abs=80)
