"""Realignment preserves the order of residues in every row, or is refused."""

import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refsys.data.formats.msa import read_msa
from refsys.data.formats.realign import onto_query
from refsys.data.vocabulary import AMINO_ACIDS, GAP
from refsys.errors import DataError

LETTERS = "".join(AMINO_ACIDS.values())
# Suffix that is aligned to itself whatever precedes it.
ANCHOR = "WCWHWCWH"
ANCHORED = "MKVLSTWCWHMKVLW"


def array(texts):
    return np.array([[ord(letter) for letter in text] for text in texts], np.uint8)


def text(row):
    return row.tobytes().decode()


def residues(letters, deletions):
    """Return the residues of a row up to the last column, '?' for deletions."""
    return "".join(
        "?" * count + letter.replace("-", "")
        for letter, count in zip(text(letters), deletions.tolist(), strict=True)
    )


@st.composite
def homologs(draw):
    """Generate an MSA, and a chain that differs from its query by edits."""
    query = draw(st.text(LETTERS, min_size=24, max_size=40))
    chain = list(query)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(chain)))
        length = draw(st.integers(0, 2))
        chain[at : at + length] = draw(st.text(LETTERS, max_size=3))
    width = len(query) + len(ANCHOR)
    rows = draw(st.lists(st.text(LETTERS + "---", min_size=width, max_size=width), max_size=4))
    numbers = st.lists(
        st.sampled_from([0, 0, 0, 1, 7]), min_size=width * len(rows), max_size=width * len(rows)
    )
    deletions = np.array(draw(numbers), np.uint8).reshape(len(rows), width)
    deletions = np.concatenate([np.zeros((1, width), np.uint8), deletions])
    return array([query + ANCHOR, *rows]), deletions, "".join(chain) + ANCHOR


@given(homologs())
def test_realignment_preserves_the_order_of_residues(homologs_of_chain):
    letters, deletions, chain = homologs_of_chain
    try:
        realigned, counts = onto_query(letters, deletions, chain)
    except DataError:
        assume(False)
    assert realigned.shape == counts.shape == (len(letters) + 1, len(chain))
    assert text(realigned[0]) == chain
    assert not counts[0].any()
    for row in range(len(letters)):
        before = residues(letters[row], deletions[row])
        after = residues(realigned[row + 1], counts[row + 1])
        assert len(before) == len(after)
        assert all(now in {"?", was} for was, now in zip(before, after, strict=True))


@given(homologs())
def test_realignment_onto_substitutions_keeps_all_columns(homologs_of_chain):
    letters, deletions, _ = homologs_of_chain
    chain = text(letters[0])
    chain = chain[:5] + ("A" if chain[5] != "A" else "G") + chain[6:]
    realigned, counts = onto_query(letters, deletions, chain)
    np.testing.assert_array_equal(realigned, np.insert(letters, 0, array([chain])[0], axis=0))
    np.testing.assert_array_equal(counts[1:], deletions)


def test_removed_columns_become_saturating_deletions():
    letters = array(["MKVDDDDLSTWCWH", "MKVDD--LSTWCWH", "-------LSTWCWH"])
    deletions = np.zeros(letters.shape, np.uint8)
    deletions[1, 4], deletions[1, 7], deletions[2, 7] = 3, 2, 254
    realigned, counts = onto_query(letters, deletions, "MKVLSTWCWH")
    assert [text(row) for row in realigned] == ["MKVLSTWCWH"] * 3 + ["---LSTWCWH"]
    assert counts[:, 3].tolist() == [0, 4, 7, 254]
    deletions[1, 7] = 252
    assert onto_query(letters, deletions, "MKVLSTWCWH")[1][2, 3] == 255


def test_residues_without_a_column_are_gaps_and_trailing_columns_are_dropped():
    letters = array(["GGGMKVLSTWCWHYY"])
    deletions = np.zeros(letters.shape, np.uint8)
    realigned, counts = onto_query(letters, deletions, "MKVLEEESTWCWH")
    assert text(realigned[1]) == "MKVL---STWCWH"
    assert counts[1].tolist() == [3] + [0] * 12
    counts = onto_query(array(["MKVLSTWCWHMKVLDDW"]), np.zeros((1, 17), np.uint8), ANCHORED)[1]
    assert counts[1].tolist() == [0] * 14 + [2]
    realigned, counts = onto_query(array(["MKVLSTWCWHYYY"]), deletions[:, :13], "MKVLSTWCWH")
    assert (text(realigned[1]), counts.any()) == ("MKVLSTWCWH", False)


def test_realignment_needs_seventy_percent_of_known_residues():
    query = "MKVLSTWCWHMKVLSTWCWH"
    letters = array([query])
    other = {"K": "G", "V": "G", "L": "G", "S": "W"}
    for changed in ([1, 2, 3, 11, 12, 13], [1, 2, 3, 11, 12, 13, 14]):
        chain = "".join(other[c] if at in changed else c for at, c in enumerate(query))
        if len(changed) == 6:
            assert text(onto_query(letters, np.zeros_like(letters), chain)[0][1]) == query
        else:
            with pytest.raises(DataError, match=r"13 of the chain's 20 known residues; .* 70%"):
                onto_query(letters, np.zeros_like(letters), chain)
    unknown = "X" * 8 + query[8:]
    assert text(onto_query(letters, np.zeros_like(letters), unknown)[0][0]) == unknown
    with pytest.raises(DataError, match="0 of the chain's 0 known residues"):
        onto_query(letters, np.zeros_like(letters), "X" * 20)
    letters = array(["X" * 10 + query[:10]])
    with pytest.raises(DataError, match="0 of the chain's 10 known residues"):
        onto_query(letters, np.zeros_like(letters), "X" * 10 + "G" * 10)


def test_alleles_that_differ_by_substitutions_are_aligned_without_gaps():
    """HLA heavy chains, which an alignment by identity alone would align with gaps."""
    letters = array(
        ["ASPRGEPRAPWVEQEGPEYWDRETQKYKRQAQTDRVSLRNLRGYYNQSEAGSHTLQWMFGCDLGPDGRLLRGYDQSAYDG"]
    )
    chain = "TSPRKEPRAPWIEQEGPEYWDRETQISKTNTQTYRENLRTALRYYNQSEAGSHIIQRMYGCDVGPDGRLLRGYDQYAYDG"
    realigned, _ = onto_query(letters, np.zeros_like(letters), chain)
    np.testing.assert_array_equal(realigned[1:], letters)


class TestOfAFile:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "x.a3m"
        path.write_text(
            ">q OX=9606\nMKVLSTWCWH\n>1 OX=3\nMKVaL-TWCWH\n>2 OX=4\nMKGLSTWCWH\n", encoding="utf-8"
        )
        return path

    @pytest.mark.parametrize("query", [None, "MKVLSTWCWH", "MXVLSTWCWH"])
    def test_realign_option_changes_nothing_for_a_matching_query(self, path, query):
        plain, realigned = read_msa(path, query), read_msa(path, query, realign=True)
        for name, column in plain.items():
            np.testing.assert_array_equal(realigned[name], column)

    def test_chain_is_row_0_and_query_of_the_file_row_1(self, path):
        realigned = read_msa(path, "MKGLSTWCWHV", realign=True)
        assert realigned["codes"].shape == (4, 11)
        assert realigned["codes"][1:, -1].tolist() == [GAP] * 3
        assert realigned["species"].tolist() == [-1, 9606, 3, 4]
        assert realigned["deletions"][2].tolist() == [0, 0, 0, 1] + [0] * 7

    def test_rows_equal_to_the_chain_are_merged_into_it(self, path):
        realigned = read_msa(path, "MKGLSTWCWH", realign=True)
        assert realigned["codes"].shape == (3, 10)
        assert realigned["species"].tolist() == [4, 9606, 3]
        realigned = read_msa(path, "MKVLSTWCW", realign=True)
        assert realigned["species"].tolist() == [9606, 3, 4]

    def test_dissimilar_query_and_query_without_realign_option_are_refused(self, path):
        with pytest.raises(DataError, match=r"x.a3m: the query has \d of the chain's 10 known"):
            read_msa(path, "GGGGGGGGGG", realign=True)
        with pytest.raises(DataError, match=r"x.a3m: the query has 10 residues; the chain has 9"):
            read_msa(path, "MKVLSTWCW")

    def test_realignment_needs_gemmi_and_reading_does_not(self, path, monkeypatch):
        monkeypatch.setitem(sys.modules, "gemmi", None)
        with pytest.raises(DataError, match=r"x.a3m: .*pip install 'foldperf\[data\]'"):
            read_msa(path, "MKVLSTWCW", realign=True)
        assert len(read_msa(path, "MKVLSTWCWH", realign=True)["codes"]) == 3
