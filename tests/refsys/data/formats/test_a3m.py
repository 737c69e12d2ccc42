"""A3M of other tools: additions that are left out, and files that are refused."""

import numpy as np
import pytest

from refsys.data.formats.msa import read_msa, read_msa_file
from refsys.data.vocabulary import PROTEIN_LETTERS
from refsys.errors import DataError

PLAIN = b">q\nMKVL\n>1\nM-Va\n"


@pytest.fixture
def read(tmp_path):
    def read(text, query=None, name="x.a3m", **more):
        path = tmp_path / name
        path.write_bytes(text)
        return read_msa_file(path, query, **more)

    return read


def rows(alignment):
    letters = {int(code): chr(letter) for letter, code in enumerate(PROTEIN_LETTERS) if letter < 91}
    return ["".join(letters[code] for code in row) for row in alignment.columns["codes"].tolist()]


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "byte-order mark": (b"\xef\xbb\xbf>q\nMKVL\n>1\nMAVL\n", ["MKVL", "MAVL"]),
        "Windows line ends": (b">q\r\nMK\r\nVL\r\n>1\r\nMAVL\r\n", ["MKVL", "MAVL"]),
        "NUL at the end": (b">q\nMKVL\n>1\nMAVL\n\0", ["MKVL", "MAVL"]),
        "NULs and line ends": (b">q\nMKVL\n>1\nMAVL\0\n\0\r\n", ["MKVL", "MAVL"]),
        "stop of all": (b">q\nMKVL*\n>1\nMAVL*\n", ["MKVL", "MAVL"]),
        "stop of the query alone": (b">q\nMKVL*\n>1\nMAVL\n", ["MKVL", "MAVL"]),
        "stop of a hit alone": (b">q\nMKVL\n>1\nMAVL*\n", ["MKVL", "MAVL"]),
        "gap beside the stop": (b">q\nMKVL*\n>1\nMAVL-\n>2\nMA--*\n", ["MKVL", "MAVL", "MA--"]),
        "residue beside the stop": (b">q\nMKVL*\n>1\nMAVLG\n", ["MKVL", "MAVL"]),
        "stop within the query": (b">q\nMKVL\n>1\nMA*-\n>2\nMAA*\n", ["MKVL", "MA--", "MAA-"]),
        "stop behind an insertion": (b">q\nMKVL*\n>1\nMAVLgg*\n", ["MKVL", "MAVL"]),
        "dots beside insertions": (b">q\nMK..VL\n>1\nMAggVL\n", ["MKVL", "MAVL"]),
        "dots as gaps": (b">q\nMKVL\n>1\nMA.L\n", ["MKVL", "MA-L"]),
        "annotation first": (b">ss_pred\nCC\nHH\n>sa_dssp x\n11\n>q\nMKVL\n", ["MKVL"]),
        "annotation last": (b">q\nMKVL\n>ss_dssp\nCCHH\n>ss_conf PSIPRED\n9999\n", ["MKVL"]),
        "annotation alike": (b">q\nMKVL\n>ss_predator\nMAVL\n", ["MKVL", "MAVL"]),
    }.values(),
)
def test_msa_is_read_without_the_additions_of_other_tools(read, text, expected):
    assert rows(read(text)) == expected


def test_only_annotation_rows_are_noted(read):
    text = b">ss_pred\nCCHH\n>ss_conf\n9999\n>q\nMKVL\n>ss_pred\nCCHH\n"
    note = "x.a3m: skipped ss_pred, ss_conf: annotation, not sequences"
    assert read(text).notes == (note,)
    assert read(PLAIN.replace(b"a", b"A")).notes == ()


@pytest.mark.parametrize(
    ("text", "query", "message"),
    [
        (b">q\nmkvl\n>1\nMAVL\n", None, "line 1: the query has no aligned column; it is in lower"),
        (
            b">q\nmkvl\n>1\nmavl\n",
            "MKVL",
            "line 1: the query has no aligned column; it is in lower",
        ),
        (
            b">q\nMKvl\n",
            "MKVL",
            "the query has 2 residues; the chain has 4; 2 of its letters are in",
        ),
        (
            b">q\nMKVL\n>1\nmavl\n",
            None,
            "line 3: 0 aligned columns and 4 insertions, in lower case",
        ),
        (b">ss_pred\nCCHH\n", None, "no rows: empty or truncated"),
        (b">q\nMKVL\n\0>r\nMK\n\0", None, "line 3: a NUL byte, which mmseqs writes between"),
        (b">q\nMK.L\n>1\nMAVL\n", None, "line 1: the query has a gap in column 3"),
        (b">q\nMKVL\n>1\nM*VL\n", None, r"line 3: '*' in column 2 is not a residue"),
        (b">q\n*\n", None, "the query has no aligned column"),
        (b">q\nMKVL\n>1\n*\n", None, "line 3: 1 aligned columns; the query has 4"),
    ],
)
def test_refusal_names_the_cause(read, text, query, message):
    with pytest.raises(DataError) as caught:
        read(text, query)
    assert message in str(caught.value)


def test_stockholm_and_parquet_omit_the_same_additions(read, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    text = b"\xef\xbb\xbf# STOCKHOLM 1.0\r\nq MK.VL*\r\n1 M-gVL*\r\n2 MA.V*.\r\n//\r\n\0"
    assert rows(read(text, "MKVL", "x.sto")) == ["MKVL", "M-VL", "MAV-"]
    columns = {"sequence": ["MKVL*", "M-gVL*"], "pairing_key": ["", ""], "comment": ["", ""]}
    parquet.write_table(pa.table(columns), tmp_path / "x.pqt")
    assert read_msa(tmp_path / "x.pqt", "MKVL")["codes"].shape == (2, 4)


class TestAlternatives:
    def test_listed_component_is_accepted_and_the_record_has_the_chains(self, read):
        alignment = read(b">q\nMSVL\n>1\nMAVL\n", "MKVL", alternatives={1: "ST"})
        assert rows(alignment) == ["MKVL", "MAVL"]

    def test_record_is_that_of_the_chains_own_sequence(self, read):
        other = read(b">q\nMSVL\n>1\nMSVL\n>2\nMKVL\n", "MKVL", alternatives={1: "S"})
        expected = read(b">q\nMKVL\n>1\nMSVL\n>2\nMKVL\n", "MKVL", alternatives={1: "S"})
        assert set(expected.columns) == set(other.columns)
        for name, column in expected.columns.items():
            assert np.array_equal(column, other.columns[name]), name

    def test_component_that_is_not_listed_there_is_refused(self, read):
        with pytest.raises(DataError, match="has P in column 2; the chain has K or S or T"):
            read(b">q\nMPVL\n", "MKVL", alternatives={1: "ST"})
        with pytest.raises(DataError, match="has S in column 3; the chain has V"):
            read(b">q\nMKSL\n", "MKVL", alternatives={1: "ST"})
