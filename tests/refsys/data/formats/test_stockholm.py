"""Reader of Stockholm: equality with A3M, real files, and refusals."""

import gzip

import numpy as np
import pytest

from refsys.data.formats.msa import read_msa
from refsys.data.vocabulary import PROTEIN_LETTERS
from refsys.errors import DataError

STOCKHOLM = """# STOCKHOLM 1.0
#=GF ID made up
#=GS tr|A0A0K0ME10|A0A0K0ME10_9STAP/1-2 DE [subseq from] ParR OS=Staphylococcus equorum OX=246432
#=GS other OS Homo sapiens

query                               M.K-V
tr|A0A0K0ME10|A0A0K0ME10_9STAP/1-2  m-K-V
other                               -GrAg
#=GR other PP                       .9999
#=GC RF                             x.x.x

query                               A
tr|A0A0K0ME10|A0A0K0ME10_9STAP/1-2  .
other                               c
//
"""


@pytest.fixture
def read(tmp_path):
    def read(text, query=None, name="x.a3m"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_msa(path, query)

    return read


def codes(row):
    return PROTEIN_LETTERS[np.frombuffer(row.encode(), np.uint8)].tolist()


class TestStockholm:
    def test_stockholm_equals_a3m_of_the_query(self, read):
        a3m = (
            ">query\nMKVA\n>tr|A0A0K0ME10|A0A0K0ME10_9STAP/1-2 OX=246432\nMKV-\n"
            ">other OS=Homo sapiens\n-gRaGC\n"
        )
        result, expected = read(STOCKHOLM, "MKVA", "x.sto"), read(a3m, "MKVA")
        assert set(result) == set(expected)
        for name, column in expected.items():
            assert np.array_equal(result[name], column), name

    def test_compressed_stockholm_is_read(self, read):
        text = gzip.compress(STOCKHOLM.encode())
        assert len(read(text, "MKVA", "x.sto.gz")["codes"]) == 3

    @pytest.mark.parametrize(
        ("text", "reason"),
        {
            "": "no rows: empty or truncated",
            ">q\nMKV\n": "not readable as Stockholm: the file is FASTA or A3M",
            "q MKV\n": "line 1: not Stockholm",
            "# STOCKHOLM 1.0\n//\n": "no rows",
            "# STOCKHOLM 1.0\nq MKV\n": "no end: empty or truncated",
            "# STOCKHOLM 1.0\nq MKV\nr MK\n//\n": "line 3: 2 columns; the query has 3",
            "# STOCKHOLM 1.0\nq MKV\nr M K\n//\n": "line 3: expected a name and a part of its row",
            "# STOCKHOLM 1.0\nq MKV\nr M1V\n//\n": "line 3: '1' in column 2",
            "# STOCKHOLM 1.0\nq ...\nr MKV\n//\n": "the query has no aligned column",
            "# STOCKHOLM 1.0\nq MK\n//\n# STOCKHOLM 1.0\nq MK\n//\n": "line 4: more than one",
        }.items(),
    )
    def test_unusable_stockholm_is_refused(self, read, text, reason):
        with pytest.raises(DataError, match=reason):
            read(text, name="x.sto")

    def test_real_stockholm_equals_a_plain_reading(self, sources):
        """jackhmmer hits of UniProt for 2q2k have the rows of a reading line by line."""
        path = sources["2q2k"].alignments["B"].cached
        result = read_msa(
            path, "MGSSHHHHHHSSGLVPGSHMDKKETKHLLKIKKEDYPQIFDFLENVPRGTKTAHIREALRRYIEEIGENP"
        )
        lines = [
            line.split()
            for line in path.read_text(encoding="utf-8").splitlines()
            if line[:1] not in "#/"
        ]
        rows = list(dict.fromkeys(line[1] for line in lines if line))
        assert result["codes"].tolist() == [codes(row) for row in rows]
        assert len(rows) == 4
        species = {*result["species"].tolist(), *result["further_species"][:, 1].tolist()}
        assert {1280, 1295, 1667172} < species
        assert result["species"][0] == -1
