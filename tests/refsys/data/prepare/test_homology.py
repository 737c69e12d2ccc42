"""Sequence search: hits are aligned, with their species; unusable databases are refused."""

import gzip

import numpy as np
import pytest

from bench.cli import main
from refsys.data.prepare.homology import hits_among, search_msa
from refsys.data.store.store import Store
from refsys.data.vocabulary import GAP, PROTEIN_LETTERS
from refsys.errors import DataError

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
# Ubiquitin with two residues inserted and the first replaced, and without its beginning.
MUTANT = "L" + UBIQUITIN[1:]
LONGER = MUTANT[:40] + "GS" + MUTANT[40:]
SHORTER = UBIQUITIN[20:]
OTHER = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVVHSLAKWKRQ"
FASTA = f"""\
>tr|A|A_HUMAN longer OS=Homo sapiens OX=9606
{LONGER}
>tr|B|B_MOUSE shorter OS=Mus musculus OX=10090
{SHORTER}
>tr|C|C_HUMAN other OS=Homo sapiens OX=9606
{OTHER}
"""


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "sequences.fasta"
    path.write_text(FASTA, encoding="utf-8")
    return path


def classes(sequence):
    return PROTEIN_LETTERS[np.frombuffer(sequence.encode(), np.uint8)].tolist()


def test_search_aligns_homologs_alone(database):
    result = search_msa(UBIQUITIN, database)
    assert result["codes"].shape == (3, 76)
    assert result["codes"][0].tolist() == classes(UBIQUITIN)
    assert result["codes"][1, 1:].tolist() == classes(MUTANT)[1:]
    # The two inserted residues are deletions of the query.
    assert result["deletions"][1].sum() == 2
    assert result["deletions"][1, 38:42].sum() == 2
    assert result["codes"][2].tolist() == [GAP] * 20 + classes(SHORTER)
    assert result["species"].tolist() == [-1, 9606, 10090]


def test_search_in_compressed_database_is_the_same(database, tmp_path):
    path = tmp_path / "same.fasta.gz"
    path.write_bytes(gzip.compress(FASTA.encode()))
    one, two = (search_msa(UBIQUITIN, file) for file in (database, path))
    assert all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("sequence", ["A", "AAAA", "X" * 30, "MKTWYV" * 20])
def test_search_without_hits_has_the_query_alone(database, sequence):
    result = search_msa(sequence, database)
    assert result["codes"].tolist() == [classes(sequence)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not FASTA"),
        (b"data_x\n", "not readable as FASTA: the file is mmCIF"),
        (b"\x00\x01\x02" * 50, "not FASTA"),
        (b">a\nMK1T\n", "not FASTA"),
        (None, "No such file"),
    ],
)
def test_unusable_database_is_refused_in_one_line(tmp_path, content, reason):
    path = tmp_path / "bad.fasta"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        search_msa(UBIQUITIN, path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_hits_count_identical_and_aligned_residues():
    sequences = [UBIQUITIN, LONGER, SHORTER, OTHER]
    result = hits_among(sequences)
    rows = {
        (int(query), int(target)): (int(identical), int(aligned))
        for query, target, identical, aligned in zip(*result, strict=True)
    }
    assert rows[0, 0] == (76, 76)
    assert rows[0, 1][0] == 75
    assert rows[0, 2] == rows[2, 0] == (56, 56)
    assert not any((3, other) in rows or (other, 3) in rows for other in range(3))
    assert all(len(column) == 0 for column in hits_among([]))


class TestPrepare:
    def prepare(self, sources, store, *options, entry="1ubq"):
        path = str(sources[entry].structure.cached)
        return main(["prepare", path, "--store", str(store), *options])

    def test_prepare_searches_chains_without_an_msa(self, sources, tmp_path, database):
        store = tmp_path / "store"
        options = ["--database", str(database)]
        assert self.prepare(sources, store, *options) == 0
        alignment = Store(store).open("1ubq").alignments[0]
        assert alignment.facts["source"] == "sequences.fasta"
        assert len(alignment["codes"]) == 3

    def test_prepare_searches_again_only_when_the_database_changes(
        self, sources, tmp_path, database, capsys
    ):
        store = tmp_path / "store"
        options = ["--database", str(database)]
        for state in ("2 records built", "unchanged"):
            assert self.prepare(sources, store, *options) == 0
            assert f"1ubq: 76 tokens, {state}" in capsys.readouterr().out
        database.write_text(FASTA.split(">tr|B", maxsplit=1)[0], encoding="utf-8")
        assert self.prepare(sources, store, *options) == 0
        assert "1 records built" in capsys.readouterr().out
        assert len(Store(store).open("1ubq").alignments[0]["codes"]) == 2

    def test_prepare_prefers_a_given_msa_to_the_search(self, sources, tmp_path, database):
        file = sources["2q2k"].alignments["B"].cached
        options = ["--database", str(database), "--alignment", f"B={file}"]
        assert self.prepare(sources, tmp_path, *options, entry="2q2k") == 0
        names = {a.facts["source"] for a in Store(tmp_path).open("2q2k").alignments.values()}
        assert names == {file.name}

    def test_prepare_without_a_database_reports_where_to_get_it(
        self, sources, tmp_path, monkeypatch, capsys
    ):
        path = str(sources["1ubq"].structure.cached)
        monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path))
        assert main(["prepare", path, "--search", "--store", str(tmp_path)]) == 2
        assert "no sequences to search in are in the cache; run 'foldperf fetch --all'" in (
            capsys.readouterr().err
        )

    def test_search_of_ubiquitin_in_the_human_proteome_has_many_hits(self, sources, tmp_path):
        assert self.prepare(sources, tmp_path, "--search") == 0
        alignment = Store(tmp_path).open("1ubq").alignments[0]
        assert len(alignment["codes"]) > 40
        assert set(alignment["species"].tolist()) <= {-1, 9606}
