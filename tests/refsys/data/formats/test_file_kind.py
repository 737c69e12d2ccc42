"""Formats by their first bytes, and the refusal of a file of another format."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import msgpack
import pytest
from support.mmcif import mmcif

from refsys.data.formats.cif_tables import CifTables
from refsys.data.formats.file_kind import BINARY_CIF, FASTA, MMCIF, STOCKHOLM, file_kind
from refsys.data.formats.msa import read_msa
from refsys.errors import DataError

TEXT = mmcif().encode()
PDB_LINES = (
    "HEADER    UBIQUITIN",
    "ATOM      1  N   MET A   1      -1.816   0.142  -1.166  1.00 20.00           N",
    "HETATM12345 ZN    ZN A   1      -1.816   0.142  -1.166  1.00 20.00          ZN",
    "CRYST1   50.840   42.770   28.950  90.00  90.00  90.00 P 21 21 21    4",
    "REMARK   1 MADE BY A PREDICTOR",
    "MODEL        1",
    "TITLE     A MODEL",
)


def zipped():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("x.cif", TEXT)
    return sink.getvalue()


def tarred():
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", encoding="utf-8") as archive:
        member = tarfile.TarInfo("x.cif")
        member.size = len(TEXT)
        archive.addfile(member, io.BytesIO(TEXT))
    return sink.getvalue()


FOREIGN = {
    "empty": (b"", "empty"),
    "white space": (b" \n\t\n", "empty"),
    "zeros": (bytes(5000), "nothing but NUL bytes"),
    "UTF-16": (TEXT.decode().encode("utf-16"), "UTF-16 text by its byte-order mark"),
    "UTF-16, big-endian": (b"\xfe\xff" + TEXT.decode().encode("utf-16-be"), "UTF-16 text"),
    "UTF-32": (TEXT.decode().encode("utf-32"), "UTF-32 text"),
    "gzip": (gzip.compress(TEXT), "gzip-compressed; add .gz to its name"),
    "bzip2": (bz2.compress(TEXT), "bzip2-compressed; unpack it"),
    "xz": (lzma.compress(TEXT), "xz-compressed"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", "zstd-compressed"),
    "zip": (zipped(), "a zip archive"),
    "tar": (tarred(), "a tar archive"),
    "HTML": (b"\n<!DOCTYPE HTML><html><title>404</title>", "an HTML page, as a failed download"),
    "XHTML": (b"<?xml version='1.0'?>\n<html xmlns='x'>", "an HTML page"),
    "PDBML": (b'<?xml version="1.0"?>\n<PDBx:datablock datablockName="1UBQ">', "PDBML"),
    "XML": (b"<Error><Code>NoSuchKey</Code></Error>", "XML; download mmCIF"),
    "JSON": (b'{"name": "fold", "sequences": []}', "JSON"),
    "a failed download": (b"404: Not Found", "the message of a failed download"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
    "MMTF": (msgpack.packb({"mmtfVersion": "1.0.0"}), "MMTF"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "Parquet": (b"PAR1\x15\x04", "Parquet"),
    **{line[:6]: (f"{line}\n".encode(), "in PDB format; convert it") for line in PDB_LINES},
}


@pytest.mark.parametrize("name", ["x.cif", "x.bcif", "x_A.a3m", "x_A.sto"])
@pytest.mark.parametrize("kind", FOREIGN)
def test_file_of_another_format_is_refused_by_its_name(tmp_path, name, kind):
    content, message = FOREIGN[kind]
    if kind in {"empty", "white space"} and name.startswith("x_A"):
        message = "no rows: empty or truncated"
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        CifTables(path) if "cif" in name else read_msa(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (TEXT, MMCIF),
        (b"\xef\xbb\xbf" + TEXT, MMCIF),
        (b"# a comment\r\n#\r\n  DATA_x\r\n", MMCIF),
        (b"#" * 5000 + b"\ndata_x\n", MMCIF),
        (b"#101\t1\n>101\nMKV\n", FASTA),
        (b"\xef\xbb\xbf>q\nMKV\n", FASTA),
        (b"# STOCKHOLM 1.0\nq MKV\n//\n", STOCKHOLM),
        (msgpack.packb({"encoder": "x", "dataBlocks": []}), BINARY_CIF),
        (b"MKVATOMHEADER\n", None),
        (b"ATOMIC MODEL\n", None),
        (b"\x81", None),
    ],
)
def test_file_kind_follows_the_first_word(content, kind):
    assert file_kind(content) == kind


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "x.cif",
            b">q\nMKV\n",
            "not readable as mmCIF: the file is FASTA or A3M; give it as an MSA",
        ),
        (
            "x.cif",
            msgpack.packb({"dataBlocks": []}),
            "the file is BinaryCIF; give it as a structure",
        ),
        ("x.bcif", TEXT, "not readable as BinaryCIF: the file is mmCIF; give it as a structure"),
        ("x.a3m", TEXT, "not readable as A3M: the file is mmCIF; give it as a structure"),
        ("x.a3m", b"# STOCKHOLM 1.0\n", "not readable as A3M: the file is Stockholm; give it as"),
        ("x.sto", b">q\nMKV\n", "not readable as Stockholm: the file is FASTA or A3M"),
        ("x.pqt", b">q\nMKV\n", "not readable as Parquet: the file is FASTA or A3M"),
        ("x.cif.gz", TEXT, "not readable: not gzip: the file is mmCIF; remove .gz from its name"),
        (
            "x.cif.gz",
            FOREIGN["HTML"][0],
            "not gzip: the file is an HTML page, as a failed download ",
        ),
        ("x.cif.gz", FOREIGN["HTML"][0], "leaves; download it again"),
        ("x.a3m.gz", b"MKV", "not readable: not gzip: its first bytes are others; remove .gz"),
        (
            "x.cif.gz",
            gzip.compress(gzip.compress(TEXT)),
            "gzip-compressed; add .gz to its name, or",
        ),
        ("x.cif", TEXT[:300] + b"\0" + TEXT[300:], "not readable as mmCIF: line 26: a NUL byte"),
    ],
)
def test_file_with_a_wrong_suffix_is_refused_with_a_remedy(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        CifTables(path) if "cif" in name else read_msa(path)
    assert message in str(caught.value)
