"""Alignment rows of a crop: the query, pairs of one species, and the rest, each once."""

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.batches.construction import ExampleSpec, crop_of
from refsys.data.batches.msa_features import _cells, alignment_arrays
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store
from refsys.data.vocabulary import GAP
from refsys.streams import Draw

ROWS = 64
PAIRED = (ROWS - 1) // 2
# Complexes of HLA-A*02, β2-microglobulin and others: chains A and B have real alignments.
COMPLEXES = ("1bd2", "3pwp", "3kpr")
# What a chain has no row of is gaps.
NONE = -1
# These have rows for each recycling iteration.
OF_CYCLES = ("alignment", "deletions", "alignment_row_mask")


def features(example, kept, rows=ROWS, step=0, seed=0):
    found = recycled(example, kept, rows, step, seed)
    return {name: found[name][0] if name in OF_CYCLES else found[name] for name in found}


def recycled(example, kept, rows=ROWS, step=0, seed=0, cycles=1, **options):
    return alignment_arrays(example, kept, rows, Draw(seed, "rows", step, 0), cycles, **options)


def row_numbers(example, found, kept, chain):
    """Which row of a chain's alignment each row is; −1 where it is gaps throughout."""
    alignment = example.alignments[chain]
    here = np.flatnonzero(example.structure["token_chain"][kept] == chain)
    columns = example.structure["token_residue_index"][kept[here]] - 1
    known = np.ascontiguousarray(alignment["codes"][:, columns])
    number = {bytes(row): place for place, row in reversed(list(enumerate(known)))}
    assert len(number) == len(known), "the crop does not tell rows apart"
    rows = np.ascontiguousarray(found["alignment"][:, here])
    gap = bytes([GAP]) * len(here)
    numbers = [NONE if bytes(row) == gap else number[bytes(row)] for row in rows]
    for row, own in enumerate(numbers):
        wanted = alignment["deletions"][own, columns] if own != NONE else 0
        assert (found["deletions"][row, here] == wanted).all()
    return numbers


def species_of(alignment):
    found = [{number} - {-1} for number in alignment["species"].tolist()]
    for row, number in alignment["further_species"].tolist():
        found[row].add(number)
    return found


@pytest.fixture(scope="module")
def whole(everything):
    """An entry and all its tokens."""

    def whole(entry):
        example = everything.open(entry)
        return example, np.arange(example.tokens)

    return whole


@pytest.mark.parametrize("entry", COMPLEXES)
class TestPairs:
    def test_they_are_of_one_species_and_stand_side_by_side(self, whole, entry):
        example, kept = whole(entry)
        found = features(example, kept)
        one, two = (row_numbers(example, found, kept, chain) for chain in (0, 1))
        assert one[0] == two[0] == 0
        species = [species_of(example.alignments[chain]) for chain in (0, 1)]
        pairs = list(zip(one, two, strict=True))[1 : 1 + PAIRED]
        assert all(species[0][a] & species[1][b] for a, b in pairs)
        assert len(set(pairs)) == PAIRED

    def test_no_other_row_is_twice_there_or_in_a_pair(self, whole, entry):
        example, kept = whole(entry)
        for chain in (0, 1):
            numbers = row_numbers(example, features(example, kept, step=1), kept, chain)
            alone = numbers[1 + PAIRED :]
            assert len(set(alone)) == len(alone) == ROWS - 1 - PAIRED
            assert not set(alone) & set(numbers[: 1 + PAIRED])

    def test_a_crop_of_one_chain_has_no_pairs(self, whole, entry):
        example, _ = whole(entry)
        kept = np.flatnonzero(example.structure["token_chain"] == 0)
        numbers = row_numbers(example, features(example, kept), kept, 0)
        assert len(set(numbers)) == ROWS


@pytest.mark.parametrize("entry", ["3kpr", "3en2-assembly1"])
def test_copies_of_a_chain_have_the_same_rows(whole, entry):
    example, kept = whole(entry)
    found = features(example, kept)
    chains = example.structure["token_chain"][kept]
    number = example.structure["token_residue_index"][kept]
    copies = {}
    for chain, alignment in example.alignments.items():
        copies.setdefault(alignment.path.name, []).append(chain)
    assert any(len(own) > 1 for own in copies.values())
    for first, *others in copies.values():
        for other in others:
            one, two = (np.flatnonzero(chains == chain) for chain in (first, other))
            assert (number[one] == number[two]).all()
            for name in ("alignment", "deletions"):
                assert (found[name][:, one] == found[name][:, two]).all()
            for name in ("profile", "deletion_mean"):
                assert (found[name][one] == found[name][two]).all()


def test_they_have_them_too_where_the_first_is_outside_the_crop(whole):
    example, kept = whole("3en2-assembly1")
    names = [chain["name"] for chain in example.structure.facts["chains"]]
    second = kept[example.structure["token_chain"] == names.index("A-2")]
    alone, both = features(example, second)["alignment"], features(example, kept)["alignment"]
    assert (alone == both[:, second]).all()


def test_rows_are_drawn_anew_in_each_step_and_all_of_them_if_they_fit(whole):
    example, kept = whole("8vkf")
    one, two = (features(example, kept, step=step)["alignment"] for step in (0, 1))
    assert not np.array_equal(one, two)
    assert (one[0] == two[0]).all()
    every = features(example, kept, rows=20_000)
    numbers = row_numbers(example, every, kept, 0)
    assert sorted(numbers) == list(range(len(example.alignments[0]["codes"])))
    assert every["alignment_row_mask"].shape == (len(numbers),)


def test_rows_of_a_crop_are_the_columns_of_the_whole(whole):
    """A crop of a part of a chain has the same rows of it."""
    example, kept = whole("8vkf")
    every = features(example, kept)
    for crop in ("contiguous", "spatial"):
        spec = ExampleSpec(tokens=100, alignment_rows=ROWS, crop=crop)
        part_of = crop_of(example, spec, 3, 0)
        found = features(example, part_of)
        for name in ("alignment", "deletions"):
            assert (found[name] == every[name][:, part_of]).all()


def test_tokens_without_an_alignment_are_their_own_profile(whole):
    example, kept = whole("2q2k")
    found = features(example, kept)
    lone = np.array([c not in example.alignments for c in example.structure["token_chain"]])
    assert lone.any()
    classes = example.structure["token_residue_type"]
    assert (found["profile"][lone].argmax(axis=1) == classes[lone]).all()
    assert (found["profile"][lone].sum(axis=1) == 1).all()
    assert (found["alignment"][1:, lone] == GAP).all()
    assert not found["deletions"][:, lone].any()


class TestThreeAlignments:
    """Of three chains with species: a crop of two has no pair twice, nor the queries again."""

    @pytest.fixture
    def example(self, tmp_path):
        entity = part.ENTITY.replace("2 non-polymer", "2 polymer\n4 polymer")
        kinds = "loop_\n_entity_poly.entity_id\n_entity_poly.type\n"
        kinds += "".join(f"{entity} 'polypeptide(L)'\n" for entity in (1, 2, 4)) + "#\n"
        sequence = part.SEQUENCE.rstrip("#\n") + "\n"
        sequence += "".join(f"{e} {n} ALA\n" for e, m in ((2, 4), (4, 5)) for n in range(1, m + 1))
        atoms = [part.ATOM_ROWS[1]]
        for chain, number in (("B", 2), ("D", 4)):
            atoms.append(f"ATOM 1 C CA . ALA {chain} {number} 1 1 1.0 1.0 1.0 1.0 ? 1")
        path = tmp_path / "x.cif"
        path.write_text(
            mmcif(
                entity=entity,
                entity_poly=kinds,
                sequence=sequence + "#\n",
                chains=part.CHAINS.replace("C 3", "D 4"),
                atoms=atoms,
                connections="",
            ),
            encoding="utf-8",
        )
        texts = {
            # Rows of the first two are of several species, which the third tells apart.
            "A": ">q OX=7\nMGXA\n>1 OX=9\nMGXG\n>2 OX=8\nMGXG\n",
            "B": ">q OX=7\nAAAA\n>1 OX=9\nAAAG\n>2 OX=8\nAAAG\n",
            "D": ">q\nAAAAA\n>1 OX=9\nAAAAG\n>2 OX=8\nAAAAC\n>3 OX=7\nAAAAV\n",
        }
        alignments = {}
        for chain, text in texts.items():
            alignments[chain] = tmp_path / f"{chain}.a3m"
            alignments[chain].write_text(text, encoding="utf-8")
        store = Store(tmp_path / "store")
        prepare(store, Sources(structure=path, alignments=alignments))
        return store.open("test")

    def test_a_crop_of_all_has_every_pair(self, example):
        every = [[0, 0, 0], [0, 0, 3], [1, 1, 1], [1, 1, 2]]
        assert sorted(example.pairing["rows"].tolist()) == every
        kept = np.arange(example.tokens)
        found = features(example, kept, rows=9)
        columns = [row_numbers(example, found, kept, chain) for chain in range(3)]
        pairs = list(map(list, zip(*columns, strict=True)))
        assert pairs[0] == every[0]
        assert sorted(pairs[1:4]) == every[1:]

    def test_a_crop_of_two_has_each_pair_once(self, example):
        kept = np.flatnonzero(example.structure["token_chain"] != 2)
        found = features(example, kept, rows=9)
        one, two = (row_numbers(example, found, kept, chain) for chain in (0, 1))
        assert one == two == [0, 1]


@pytest.mark.parametrize("places", [[2, 3, 4], [3, 3, 5], [1, 4, 9], [0], [7, 7, 7], [2, 3, 3, 4]])
def test_cells_of_a_run_and_of_any_places(places):
    column = np.arange(60, dtype=np.uint8).reshape(6, 10)
    rows, places = np.array([0, 5, 2]), np.array(places, np.int32)
    assert np.array_equal(_cells(column, rows, places), column[np.ix_(rows, places)])


@pytest.mark.parametrize("entry", ["8vkf", "3pwp"])
class TestRecycling:
    def test_each_iteration_draws_its_own_rows(self, whole, entry):
        example, kept = whole(entry)
        found = recycled(example, kept, cycles=4)
        numbers = [
            row_numbers(example, {n: found[n][cycle] for n in OF_CYCLES}, kept, 0)
            for cycle in range(4)
        ]
        assert [own[0] for own in numbers] == [0] * 4
        for one in range(4):
            for two in range(one):
                assert numbers[one] != numbers[two]

    def test_their_number_changes_none(self, whole, entry):
        example, kept = whole(entry)
        one, four = (recycled(example, kept, cycles=cycles) for cycles in (1, 4))
        for name in one:
            part = four[name][:1] if name in OF_CYCLES else four[name]
            assert np.array_equal(one[name], part)

    def test_the_depth_is_drawn_from_all_there_are(self, whole, entry):
        """As many as a batch holds, unless fewer are drawn: one in ten or so of 10,000."""
        example, kept = whole(entry)
        known = max(len(alignment["codes"]) for alignment in example.alignments.values())
        depths = []
        for step in range(60):
            found = recycled(example, kept, 1024, step, cycles=4, draw_depth=True)
            assert found["alignment_row_mask"][:, 0].all()
            for mask, codes in zip(found["alignment_row_mask"], found["alignment"], strict=True):
                depth = int(mask.sum())
                assert mask[:depth].all()
                assert (codes[depth:] == GAP).all()
                depths.append(depth)
        shallow = [depth for depth in depths if depth < 1024]
        share = 1024 / min(known, 16_384)
        assert len(shallow) == pytest.approx(240 * share, abs=4 * np.sqrt(240 * share))
        assert np.mean(shallow) == pytest.approx(512, abs=4 * 300 / np.sqrt(len(shallow)))
