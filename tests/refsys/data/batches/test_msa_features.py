"""MSA rows of a crop: the query, paired rows of one species, and distinct unpaired rows."""

import numpy as np
import pytest
from support import mmcif as part
from support.mmcif import mmcif

from refsys.data.batches.construction import ExampleSpec, crop_of
from refsys.data.batches.msa_features import _cells, msa_arrays
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.store.store import Store
from refsys.data.vocabulary import GAP
from refsys.streams import Draw

ROWS = 64
PAIRED = (ROWS - 1) // 2
# Complexes of HLA-A*02, β2-microglobulin and others: chains A and B have real alignments.
COMPLEXES = ("1bd2", "3pwp", "3kpr")
# Number of a row that is all gaps.
NONE = -1
# Fields with rows for each recycling iteration.
OF_CYCLES = ("alignment", "deletions", "alignment_row_mask")


def features(example, tokens, rows=ROWS, step=0, seed=0):
    result = recycled(example, tokens, rows, step, seed)
    return {name: result[name][0] if name in OF_CYCLES else result[name] for name in result}


def recycled(example, tokens, rows=ROWS, step=0, seed=0, cycles=1, **options):
    return msa_arrays(example, tokens, rows, Draw(seed, "rows", step, 0), cycles, **options)


def row_numbers(example, result, tokens, chain):
    """Return the number of each row in the MSA of a chain, −1 for rows of gaps."""
    alignment = example.alignments[chain]
    in_chain = np.flatnonzero(example.structure["token_chain"][tokens] == chain)
    columns = example.structure["token_residue_index"][tokens[in_chain]] - 1
    codes = np.ascontiguousarray(alignment["codes"][:, columns])
    number = {bytes(row): index for index, row in reversed(list(enumerate(codes)))}
    assert len(number) == len(codes), "rows are not distinct in the crop"
    rows = np.ascontiguousarray(result["alignment"][:, in_chain])
    gap = bytes([GAP]) * len(in_chain)
    numbers = [NONE if bytes(row) == gap else number[bytes(row)] for row in rows]
    for row, row_number in enumerate(numbers):
        expected = alignment["deletions"][row_number, columns] if row_number != NONE else 0
        assert (result["deletions"][row, in_chain] == expected).all()
    return numbers


def species_of(alignment):
    result = [{number} - {-1} for number in alignment["species"].tolist()]
    for row, number in alignment["further_species"].tolist():
        result[row].add(number)
    return result


@pytest.fixture(scope="module")
def whole(everything):
    """Return a function that opens an entry and returns it with all its tokens."""

    def whole(entry):
        example = everything.open(entry)
        return example, np.arange(example.tokens)

    return whole


@pytest.mark.parametrize("entry", COMPLEXES)
class TestPairs:
    def test_paired_rows_are_of_one_species(self, whole, entry):
        example, tokens = whole(entry)
        result = features(example, tokens)
        one, two = (row_numbers(example, result, tokens, chain) for chain in (0, 1))
        assert one[0] == two[0] == 0
        species = [species_of(example.alignments[chain]) for chain in (0, 1)]
        pairs = list(zip(one, two, strict=True))[1 : 1 + PAIRED]
        assert all(species[0][a] & species[1][b] for a, b in pairs)
        assert len(set(pairs)) == PAIRED

    def test_unpaired_rows_are_distinct_and_not_paired(self, whole, entry):
        example, tokens = whole(entry)
        for chain in (0, 1):
            numbers = row_numbers(example, features(example, tokens, step=1), tokens, chain)
            alone = numbers[1 + PAIRED :]
            assert len(set(alone)) == len(alone) == ROWS - 1 - PAIRED
            assert not set(alone) & set(numbers[: 1 + PAIRED])

    def test_crop_of_one_chain_has_no_paired_rows(self, whole, entry):
        example, _ = whole(entry)
        tokens = np.flatnonzero(example.structure["token_chain"] == 0)
        numbers = row_numbers(example, features(example, tokens), tokens, 0)
        assert len(set(numbers)) == ROWS


@pytest.mark.parametrize("entry", ["3kpr", "3en2-assembly1"])
def test_copies_of_a_chain_have_the_same_rows(whole, entry):
    example, tokens = whole(entry)
    result = features(example, tokens)
    chains = example.structure["token_chain"][tokens]
    number = example.structure["token_residue_index"][tokens]
    copies = {}
    for chain, alignment in example.alignments.items():
        copies.setdefault(alignment.path.name, []).append(chain)
    assert any(len(group) > 1 for group in copies.values())
    for first, *copies_of_first in copies.values():
        for other in copies_of_first:
            one, two = (np.flatnonzero(chains == chain) for chain in (first, other))
            assert (number[one] == number[two]).all()
            for name in ("alignment", "deletions"):
                assert (result[name][:, one] == result[name][:, two]).all()
            for name in ("profile", "deletion_mean"):
                assert (result[name][one] == result[name][two]).all()


def test_copy_has_the_same_rows_when_the_first_copy_is_outside_the_crop(whole):
    example, tokens = whole("3en2-assembly1")
    names = [chain["name"] for chain in example.structure.facts["chains"]]
    second = tokens[example.structure["token_chain"] == names.index("A-2")]
    alone, both = features(example, second)["alignment"], features(example, tokens)["alignment"]
    assert (alone == both[:, second]).all()


def test_rows_differ_between_steps_and_are_complete_when_they_fit(whole):
    example, tokens = whole("8vkf")
    one, two = (features(example, tokens, step=step)["alignment"] for step in (0, 1))
    assert not np.array_equal(one, two)
    assert (one[0] == two[0]).all()
    every = features(example, tokens, rows=20_000)
    numbers = row_numbers(example, every, tokens, 0)
    assert sorted(numbers) == list(range(len(example.alignments[0]["codes"])))
    assert every["alignment_row_mask"].shape == (len(numbers),)


def test_rows_of_crop_equal_columns_of_full_chain(whole):
    """A crop of a part of a chain has the same rows as the full chain."""
    example, tokens = whole("8vkf")
    every = features(example, tokens)
    for crop in ("contiguous", "spatial"):
        spec = ExampleSpec(tokens=100, alignment_rows=ROWS, crop=crop)
        part_of = crop_of(example, spec, 3, 0)
        result = features(example, part_of)
        for name in ("alignment", "deletions"):
            assert (result[name] == every[name][:, part_of]).all()


def test_tokens_without_an_msa_have_one_hot_profile_and_gaps(whole):
    example, tokens = whole("2q2k")
    result = features(example, tokens)
    lone = np.array([c not in example.alignments for c in example.structure["token_chain"]])
    assert lone.any()
    classes = example.structure["token_residue_type"]
    assert (result["profile"][lone].argmax(axis=1) == classes[lone]).all()
    assert (result["profile"][lone].sum(axis=1) == 1).all()
    assert (result["alignment"][1:, lone] == GAP).all()
    assert not result["deletions"][:, lone].any()


class TestThreeAlignments:
    """Three chains with species, whose crops have distinct paired rows."""

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
            # The first two chains share rows of several species, which the third distinguishes.
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

    def test_crop_of_three_chains_has_every_paired_row(self, example):
        every = [[0, 0, 0], [0, 0, 3], [1, 1, 1], [1, 1, 2]]
        assert sorted(example.pairing["rows"].tolist()) == every
        tokens = np.arange(example.tokens)
        result = features(example, tokens, rows=9)
        columns = [row_numbers(example, result, tokens, chain) for chain in range(3)]
        pairs = list(map(list, zip(*columns, strict=True)))
        assert pairs[0] == every[0]
        assert sorted(pairs[1:4]) == every[1:]

    def test_crop_of_two_chains_has_distinct_paired_rows(self, example):
        tokens = np.flatnonzero(example.structure["token_chain"] != 2)
        result = features(example, tokens, rows=9)
        one, two = (row_numbers(example, result, tokens, chain) for chain in (0, 1))
        assert one == two == [0, 1]


@pytest.mark.parametrize("places", [[2, 3, 4], [3, 3, 5], [1, 4, 9], [0], [7, 7, 7], [2, 3, 3, 4]])
def test_cells_equal_direct_indexing(places):
    column = np.arange(60, dtype=np.uint8).reshape(6, 10)
    rows, places = np.array([0, 5, 2]), np.array(places, np.int32)
    assert np.array_equal(_cells(column, rows, places), column[np.ix_(rows, places)])


@pytest.mark.parametrize("entry", ["8vkf", "3pwp"])
class TestRecycling:
    def test_recycling_iterations_have_different_rows(self, whole, entry):
        example, tokens = whole(entry)
        result = recycled(example, tokens, cycles=4)
        numbers = [
            row_numbers(example, {n: result[n][cycle] for n in OF_CYCLES}, tokens, 0)
            for cycle in range(4)
        ]
        assert [row[0] for row in numbers] == [0] * 4
        for one in range(4):
            for two in range(one):
                assert numbers[one] != numbers[two]

    def test_rows_of_first_iteration_are_independent_of_their_number(self, whole, entry):
        example, tokens = whole(entry)
        one, four = (recycled(example, tokens, cycles=cycles) for cycles in (1, 4))
        for name in one:
            part = four[name][:1] if name in OF_CYCLES else four[name]
            assert np.array_equal(one[name], part)

    def test_sampled_depth_is_uniform_over_the_msa(self, whole, entry):
        """About one in ten of the depths from 1 to 10,000 is below the 1,024 rows of a batch."""
        example, tokens = whole(entry)
        available = max(len(alignment["codes"]) for alignment in example.alignments.values())
        depths = []
        for step in range(60):
            result = recycled(example, tokens, 1024, step, cycles=4, draw_depth=True)
            assert result["alignment_row_mask"][:, 0].all()
            for mask, codes in zip(result["alignment_row_mask"], result["alignment"], strict=True):
                depth = int(mask.sum())
                assert mask[:depth].all()
                assert (codes[depth:] == GAP).all()
                depths.append(depth)
        shallow = [depth for depth in depths if depth < 1024]
        share = 1024 / min(available, 16_384)
        assert len(shallow) == pytest.approx(240 * share, abs=4 * np.sqrt(240 * share))
        assert np.mean(shallow) == pytest.approx(512, abs=4 * 300 / np.sqrt(len(shallow)))
