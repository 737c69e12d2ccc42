"""MSA pairing by species: equality with plain Python, symmetry, limits, and real MSAs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refsys.data.formats.mmcif import read_structure
from refsys.data.formats.msa import read_msa
from refsys.data.prepare.msa_pairing import PAIRED_ROWS, ROWS_PER_SPECIES, paired_rows
from refsys.data.prepare.tokens import chain_sequence, residues_of_chains


@st.composite
def alignments(draw, least=1, most=4):
    """Generate MSAs of few columns, classes and species, so that ties are common."""

    def alignment():
        width, depth = draw(st.integers(1, 3)), draw(st.integers(1, 9))
        cells = st.lists(st.integers(0, 2), min_size=width * depth, max_size=width * depth)
        named = draw(st.lists(st.integers(-1, 3), min_size=depth, max_size=depth))
        pairs = st.tuples(st.integers(0, depth - 1), st.integers(0, 3))
        further = draw(st.lists(pairs, max_size=4, unique=True))
        further = [(row, species) for row, species in further if species != named[row]]
        return {
            "codes": np.array(draw(cells), np.uint8).reshape(depth, width),
            "species": np.array(named, np.int32),
            "further_species": np.array(further, np.int32).reshape(-1, 2),
        }

    return [alignment() for _ in range(draw(st.integers(least, most)))]


def identity(alignment, row):
    query, other = alignment["codes"][0].tolist(), alignment["codes"][row].tolist()
    return sum(a == b for a, b in zip(query, other, strict=True)) * 10**6 // len(query)


def twin(given_alignments, per_species, most):
    ranked = []
    for alignment in given_alignments:
        members = [*enumerate(alignment["species"].tolist())]
        members += map(tuple, alignment["further_species"].tolist())
        by_species = {}
        for row, species in members:
            if species >= 0:
                by_species.setdefault(species, []).append(row)
        for rows in by_species.values():
            rows.sort(key=lambda row: (-identity(alignment, row), row))
        ranked.append(by_species)
    result = []
    for species in set().union(*ranked):
        having = [rows[species] for rows in ranked if species in rows]
        if len(having) < 2:
            continue
        for rank in range(min(per_species, *map(len, having))):
            pair = [rows[species][rank] if species in rows else -1 for rows in ranked]
            total = sum(
                identity(a, row) for a, row in zip(given_alignments, pair, strict=True) if row >= 0
            )
            result.append((-len(having), -total, species, rank, pair))
    expected = [[0] * len(given_alignments)]
    for *_, pair in sorted(result):
        if pair not in expected and max(pair) > 0:
            expected.append(pair)
    return expected[:most]


@given(alignments(), st.integers(1, 4), st.integers(1, 12))
def test_paired_rows_equal_plain_python(msas, per_species, most):
    result = paired_rows(msas, per_species=per_species, limit=most)
    assert result.dtype == np.int32
    assert result.tolist() == twin(msas, per_species, most)


@given(alignments(least=2), st.randoms(use_true_random=False))
def test_columns_of_paired_rows_follow_the_order_of_msas(msas, random):
    order = list(range(len(msas)))
    random.shuffle(order)
    result = paired_rows([msas[index] for index in order])
    np.testing.assert_array_equal(result, paired_rows(msas)[:, order])


@given(alignments(least=2), alignments(most=1))
def test_msa_without_species_adds_an_unpaired_column(msas, other):
    other[0]["species"][:] = -1
    other[0]["further_species"] = np.zeros((0, 2), np.int32)
    result, alone = paired_rows([*msas, *other]), paired_rows(msas)
    np.testing.assert_array_equal(result[:, :-1], alone)
    assert result[0, -1] == 0
    assert (result[1:, -1] == -1).all()


@pytest.mark.parametrize("number", [0, 1])
def test_paired_rows_of_fewer_than_two_msas_are_the_queries(number):
    one = {
        "codes": np.zeros((3, 2), np.uint8),
        "species": np.array([1, 1, 2], np.int32),
        "further_species": np.array([[0, 2]], np.int32),
    }
    assert paired_rows([one] * number).tolist() == [[0] * number]


def test_paired_rows_are_limited_per_species_and_in_total():
    def deep(species, rows):
        numbers = np.repeat(np.arange(species, dtype=np.int32), rows)
        codes = np.arange(len(numbers) + 1, dtype=np.int64)[:, None] >> np.arange(0, 24, 8) & 255
        return {
            "codes": codes.astype(np.uint8),
            "species": np.insert(numbers, 0, -1),
            "further_species": np.zeros((0, 2), np.int32),
        }

    assert len(paired_rows([deep(1, 700), deep(1, 800)])) == ROWS_PER_SPECIES + 1
    assert len(paired_rows([deep(1, 700), deep(1, 300)])) == 300 + 1
    assert len(paired_rows([deep(20, 500), deep(20, 450)])) == PAIRED_ROWS
    assert len(paired_rows([deep(20, 500), deep(20, 450)], limit=10**6)) == 20 * 450 + 1


@pytest.fixture(scope="module")
def records(sources):
    """Return the records of HLA-A*02 and β2-microglobulin of 3PWP, with MSAs of close homologs."""
    source = sources["3pwp"]
    chains = read_structure(source.structure.cached)
    files = [source.alignments[chain].cached for chain in "AB"]
    return [
        read_msa(path, chain_sequence(residues_of_chains(chains)[number]), realign=True)
        for number, path in enumerate(files)
    ]


def test_real_homologs_are_realigned_onto_the_chains(records):
    assert [record["codes"].shape for record in records] == [(72_026, 275), (13_084, 100)]
    heavy, light = (record["codes"] for record in records)
    # Identities of 86 % and 99 %: row 1 is the query of the file.
    assert (heavy[0] == heavy[1]).sum() == 235
    assert (light[0] == light[1]).sum() == 99


def test_real_paired_rows_share_a_species(records):
    species_of = []
    for record in records:
        result = [{number} - {-1} for number in record["species"].tolist()]
        for row, number in record["further_species"].tolist():
            result[row].add(number)
        species_of.append(result)
    paired = paired_rows(records)
    assert paired.shape == (PAIRED_ROWS, 2)
    assert paired[0].tolist() == [0, 0]
    assert len(np.unique(paired, axis=0)) == PAIRED_ROWS
    shared = [species_of[0][a] & species_of[1][b] for a, b in paired[1:].tolist()]
    assert all(shared)
    everyone = [set().union(*result) for result in species_of]
    assert [len(numbers) for numbers in everyone] == [1259, 1054]
    assert len(everyone[0] & everyone[1]) == 869
    # The limit leaves out the rows least similar to the queries; without it no species is lost.
    assert len(set().union(*shared)) > 600
    every = paired_rows(records, limit=10**6)[1:].tolist()
    assert len(every) > PAIRED_ROWS
    shared = [species_of[0][a] & species_of[1][b] for a, b in every]
    assert set().union(*shared) == everyone[0] & everyone[1]
