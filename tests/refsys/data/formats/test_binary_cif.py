"""BinaryCIF gives the same structure as the text format; unusable files are refused."""

import dataclasses
import gzip

import msgpack
import numpy as np
import pytest
from support.binary_cif import as_binary
from support.mmcif import mmcif

from refsys.data.formats.mmcif import read_structure
from refsys.data.prepare.assembly import assembled
from refsys.errors import DataError


@pytest.fixture(scope="module")
def binary():
    return as_binary(mmcif())


@pytest.fixture
def read(tmp_path):
    def read(content, name="x.bcif"):
        path = tmp_path / name
        path.write_bytes(content)
        return read_structure(path)

    return read


def assert_equal(result, expected):
    for field in dataclasses.fields(expected):
        one, two = getattr(result, field.name), getattr(expected, field.name)
        same = np.array_equal(one, two) if isinstance(two, np.ndarray) else one == two
        assert same, field.name


@pytest.mark.parametrize("entry", ["1ubq", "2q2k", "8vkf", "6yfy"])
def test_binary_cif_equals_text_mmcif(read, sources, entry, tmp_path):
    path = sources[entry].structure.cached
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    expected = read_structure(path)
    result = read(as_binary(text.decode()))
    assert_equal(result, expected)
    assert_equal(
        assembled(result, tmp_path / "x.bcif", "1"),
        assembled(expected, path, "1"),
    )


def test_suffixes_are_read_compressed_and_in_any_case(read, binary, tmp_path):
    path = tmp_path / "text.cif"
    path.write_text(mmcif(), encoding="utf-8")
    assert_equal(read(gzip.compress(binary), "x.BCIF.GZ".lower()), read_structure(path))
    assert_equal(read(binary, "x.BCIF"), read_structure(path))


def changed(binary, change):
    content = msgpack.unpackb(binary)
    change(content["dataBlocks"][0])
    return msgpack.packb(content)


def column_of(block, category, name):
    (result,) = (c for c in block["categories"] if c["name"].lstrip("_") == category)
    (column,) = (c for c in result["columns"] if c["name"] == name)
    return column


def without_masks(block):
    for category in block["categories"]:
        for column in category["columns"]:
            column["mask"] = None


def test_placeholders_are_absent_values_without_a_mask(read, binary):
    assert_equal(read(changed(binary, without_masks)), read(binary))


def claims(size):
    def change(block):
        encoding = column_of(block, "atom_site", "Cartn_x")["data"]["encoding"]
        encoding.insert(-1, {"kind": "RunLength", "srcType": 3, "srcSize": size})

    return change


def without_atoms(block):
    block["categories"] = [c for c in block["categories"] if not c["name"].endswith("atom_site")]


def short(block):
    column_of(block, "atom_site", "Cartn_x")["data"]["data"] = b""


@pytest.mark.parametrize(
    ("content", "reason"),
    {
        "empty": (lambda binary: b"", "not readable as BinaryCIF"),
        "text": (lambda binary: mmcif().encode(), "not readable as BinaryCIF"),
        "truncated": (lambda binary: binary[:-100], "not readable as BinaryCIF"),
        "another map": (lambda binary: msgpack.packb({"a": 1}), "not readable as BinaryCIF"),
        "a number": (lambda binary: b"\x01", "not readable as BinaryCIF"),
        "a bomb": (lambda binary: changed(binary, claims(1 << 40)), "claims to unpack to more"),
        "a run of any length": (lambda binary: changed(binary, claims(None)), "without its size"),
        "a run of negative length": (lambda binary: changed(binary, claims(-1)), "without its"),
        "no atoms": (lambda binary: changed(binary, without_atoms), "no _atom_site"),
        "a short column": (lambda binary: changed(binary, short), "."),
    }.values(),
)
def test_unusable_binary_cif_is_refused_in_one_line(read, binary, content, reason):
    with pytest.raises(DataError, match=reason) as caught:
        read(content(binary))
    assert "\n" not in str(caught.value)
