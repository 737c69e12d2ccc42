"""Detection of a file's format by its first bytes, whatever its name."""

import re
from typing import NamedTuple


class FileKind(NamedTuple):
    """A file format.

    Attributes:
        name: Completes "the file is ...".
        remedy: Advice to the user where another format is expected.
    """

    name: str
    remedy: str


MMCIF = FileKind("mmCIF", "give it as a structure, named .cif")
BINARY_CIF = FileKind("BinaryCIF", "give it as a structure, named .bcif")
FASTA = FileKind("FASTA or A3M", "give it as an MSA, named .a3m")
STOCKHOLM = FileKind("Stockholm", "give it as an MSA, named .sto")
PARQUET = FileKind("Parquet", "give it as an MSA, named .pqt")
GZIP = FileKind("gzip-compressed", "add .gz to its name, or unpack it")
READABLE = frozenset({MMCIF, BINARY_CIF, FASTA, STOCKHOLM, PARQUET})
PDB = FileKind("in PDB format", "convert it, for example with 'gemmi convert', or download mmCIF")
EMPTY = FileKind("empty", "download or write it again")
_NULS = FileKind("nothing but NUL bytes", "download or copy it again")
_UTF16 = FileKind("UTF-16 text by its byte-order mark", "save it as UTF-8")
_UTF32 = FileKind("UTF-32 text by its byte-order mark", "save it as UTF-8")
_HTML = FileKind("an HTML page, as a failed download leaves", "download it again")
_PDBML = FileKind("PDBML, which is XML", "download mmCIF")
_XML = FileKind("XML", "download mmCIF")
_JSON = FileKind("JSON", "give the file that holds the data itself")
_MMTF = FileKind("MMTF", "download mmCIF or BinaryCIF")
_DOWNLOAD = FileKind("the message of a failed download", "download it again")
_POINTER = FileKind("a Git LFS pointer", "fetch the file itself with 'git lfs pull'")

_UNPACK = "unpack it, or compress it with gzip"
# Formats by their first bytes; a signature stands before its own prefixes.
_SIGNATURES = (
    (b"\xff\xfe\x00\x00", _UTF32),
    (b"\x00\x00\xfe\xff", _UTF32),
    (b"\xff\xfe", _UTF16),
    (b"\xfe\xff", _UTF16),
    (b"\x1f\x8b", GZIP),
    (b"\x1f\x9d", FileKind("compressed by compress", _UNPACK)),
    (b"BZh", FileKind("bzip2-compressed", _UNPACK)),
    (b"\xfd7zXZ\x00", FileKind("xz-compressed", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", FileKind("zstd-compressed", _UNPACK)),
    (b"\x04\x22\x4d\x18", FileKind("lz4-compressed", _UNPACK)),
    (b"PK\x03\x04", FileKind("a zip archive", "unpack it")),
    (b"7z\xbc\xaf\x27\x1c", FileKind("a 7z archive", "unpack it")),
    (b"PAR1", PARQUET),
    (b"\x89HDF", FileKind("HDF5", "convert it")),
    (b"%PDF", FileKind("a PDF document", "give the data itself")),
    (b"version https://git-lfs", _POINTER),
    (b"# STOCKHOLM", STOCKHOLM),
)
_TAR = FileKind("a tar archive", "unpack it")
_TAR_MAGIC = slice(257, 262)
_BOM = b"\xef\xbb\xbf"
# Bytes that are searched for the first word of a text file, which may come after comments.
HEAD_BYTES = 1 << 16
_BINARY_HEAD_BYTES = 512
_COMMENTS = re.compile(rb"(?:[ \t\r\n]+|#[^\r\n]*)*")
_CIF_WORD = re.compile(rb"(?:data_|loop_|global_|save_|_[A-Za-z]+[._])", re.IGNORECASE)
_HTML_TAG = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_PDB_RECORD = re.compile(
    rb"(?:HEADER|OBSLTE|TITLE|SPLIT|CAVEAT|COMPND|SOURCE|KEYWDS|EXPDTA|NUMMDL|MDLTYP|AUTHOR|REVDAT"
    rb"|SPRSDE|JRNL|REMARK|DBREF|SEQADV|SEQRES|MODRES|HET|HETNAM|FORMUL|HELIX|SHEET|SSBOND|LINK"
    rb"|CISPEP|SITE|CRYST1|ORIGX[123]|SCALE[123]|MTRIX[123]|MODEL|ATOM|HETATM|ANISOU|TER|PFRMAT"
    rb"|PARENT|USER)(?=[ \t\r\n\d]|$)"
)
_FAILED_DOWNLOAD = re.compile(rb"(?:[45]\d\d\b|not found|access denied|forbidden)", re.IGNORECASE)


def without_bom(content: bytes) -> bytes:
    """Return a text's bytes without the byte-order mark of UTF-8."""
    return content.removeprefix(_BOM)


def file_kind(content: bytes) -> FileKind | None:
    """Return the format of a file by its first bytes, None if it is not recognized.

    Args:
        content: Bytes of the file, or its first 64 KiB.
    """
    if not content.strip():
        return EMPTY
    for signature, kind in _SIGNATURES:
        if content.startswith(signature):
            return kind
    if not content[:HEAD_BYTES].strip(b"\0"):
        return _NULS
    if content[_TAR_MAGIC] == b"ustar":
        return _TAR
    return _msgpack_kind(content) or _text_kind(without_bom(content[:HEAD_BYTES]))


def _msgpack_kind(content: bytes) -> FileKind | None:
    """Return the format of a MessagePack map by its first keys."""
    head = content[:_BINARY_HEAD_BYTES]
    if not (0x80 <= head[0] <= 0x8F or head[0] in {0xDE, 0xDF}):
        return None
    if b"mmtf" in head:
        return _MMTF
    return BINARY_CIF if b"dataBlocks" in head or b"encoder" in head else None


def _text_kind(head: bytes) -> FileKind | None:
    """Return the format of a text by its first word after comments."""
    if head.startswith(b"# STOCKHOLM"):
        return STOCKHOLM
    comments = _COMMENTS.match(head)
    text = head[comments.end() if comments else 0 :]
    if text.startswith(b"<"):
        if _HTML_TAG.search(text, 0, 1024):
            return _HTML
        return _PDBML if b"PDBx" in text else _XML
    words = (
        (re.compile(rb">"), FASTA),
        (_CIF_WORD, MMCIF),
        (re.compile(rb"[{\[]"), _JSON),
        (_PDB_RECORD, PDB),
        (_FAILED_DOWNLOAD, _DOWNLOAD),
    )
    return next((kind for word, kind in words if word.match(text)), None)
