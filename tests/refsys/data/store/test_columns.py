"""Records on disk: round trip, damage, no pickle, and checks of values against column widths."""

import json
import pickle

import numpy as np
import pytest

from refsys.data.store.columns import (
    ATOM_NAME,
    COMPONENT,
    FORMAT_VERSION,
    narrowed,
    open_columns,
    record_name,
    write_columns,
)
from refsys.errors import DataError


def test_text_column_stores_every_allowed_letter():
    letters = [chr(code) for code in range(32, 96)]
    assert ATOM_NAME.array(letters).tolist() == [letter.strip("\0").encode() for letter in letters]
    assert COMPONENT.array(["A1ZZZ", "ZN"]).dtype == np.dtype("S5")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("C1001", "has 5 characters"),
        ("", "has 0 characters"),
        ("Cl1", "has the character 'l'"),
        ("O`", "has the character '`'"),
        ("O{}", "has the character '{'"),
        ("Cα", "has the character 'α'"),
        ("C\0", r"has the character '\\x00'"),
        ("C\n", r"has the character '\\n'"),
    ],
)
def test_text_beyond_its_column_is_refused(text, reason):
    with pytest.raises(DataError, match=reason) as caught:
        ATOM_NAME.array(["CA", text])
    assert "\n" not in str(caught.value)


def test_normalized_text_is_upper_case_without_blanks():
    assert [ATOM_NAME.normalized(text) for text in ("Cl1", " CA ", "c 1", "CA")] == [
        *("CL1", "CA", "C 1", "CA")
    ]
    # The upper case of these is a different number of other letters.
    assert [ATOM_NAME.normalized(text) for text in ("ß", "ı", "ﬁ")] == ["ß", "ı", "ﬁ"]


@pytest.mark.parametrize(
    ("dtype", "inside", "outside"),
    [(np.int8, [-128, 127], 128), (np.uint8, [0, 255], -1), (np.uint16, [0, 65535], 65536)],
)
def test_integer_beyond_its_column_is_refused(dtype, inside, outside):
    assert narrowed(inside, dtype, "charge").tolist() == inside
    assert narrowed(inside, dtype, "charge").dtype == dtype
    with pytest.raises(DataError, match=f"^charge {outside} is not within"):
        narrowed([*inside, outside], dtype, "charge")


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "record"
    columns = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.array([b"CA", b"N"])}
    write_columns(path, "test", columns, {"source": "here"})
    return path


class TestRecord:
    def test_written_record_is_read_back(self, record):
        result = open_columns(record, "test")
        assert set(result) == {"a", "b"}
        assert result["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert result["b"].tolist() == [b"CA", b"N"]
        assert result.facts == {"source": "here"}
        assert isinstance(result["a"], np.memmap)
        result.verify()

    def test_record_name_hashes_kind_and_sources(self):
        names = {
            record_name("structure", {"file": "a"}),
            record_name("structure", {"file": "b"}),
            record_name("alignment", {"file": "a"}),
        }
        assert len(names) == 3

    def test_altered_column_is_detected(self, record):
        path = record / "a.npy"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a.npy: altered since it was written"):
            open_columns(record, "test").verify()

    def test_altered_facts_are_detected(self, record):
        path = record / "record.json"
        path.write_text(path.read_text(encoding="utf-8").replace("here", "there"), encoding="utf-8")
        with pytest.raises(DataError, match=r"record\.json: altered since it was written"):
            open_columns(record, "test").verify()

    @pytest.mark.parametrize("keep", [0, 10, 130])
    def test_truncated_column_is_detected(self, record, keep):
        path = record / "a.npy"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(DataError, match=r"a.npy: (damaged|holds)"):
            _ = open_columns(record, "test")["a"]

    def test_column_of_another_shape_is_detected(self, record):
        np.save(record / "a.npy", np.zeros(3))
        with pytest.raises(DataError, match="not the"):
            _ = open_columns(record, "test")["a"]

    def test_pickled_column_is_refused(self, record):
        (record / "a.npy").write_bytes(pickle.dumps([1, 2]))
        with pytest.raises(DataError, match="damaged"):
            _ = open_columns(record, "test")["a"]
        np.save(record / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
        with pytest.raises(DataError, match="damaged"):
            _ = open_columns(record, "test")["a"]

    @pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"kind": "test"}', "[" * 10**5])
    def test_unreadable_header_is_refused(self, record, text):
        (record / "record.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"record\.json: unreadable"):
            open_columns(record, "test")

    def test_record_of_another_kind_or_format_is_refused(self, record):
        with pytest.raises(DataError, match="a record of kind 'test'"):
            open_columns(record, "alignment")
        header = json.loads((record / "record.json").read_text(encoding="utf-8"))
        header["format"] = FORMAT_VERSION + 1
        (record / "record.json").write_text(json.dumps(header), encoding="utf-8")
        with pytest.raises(
            DataError,
            match=f"format {FORMAT_VERSION + 1}; expected 'test', format {FORMAT_VERSION}",
        ):
            open_columns(record, "test")

    def test_missing_record_and_unwritable_folder_are_refused(self, tmp_path):
        with pytest.raises(DataError, match="no such record"):
            open_columns(tmp_path / "none", "test")
        (tmp_path / "file").write_text("", encoding="utf-8")
        with pytest.raises(
            DataError, match=r"cannot write the record: (Not a directory|File exists)"
        ):
            write_columns(tmp_path / "file" / "r", "test", {}, {})
