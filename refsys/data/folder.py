"""A folder of a user's own structures and alignments."""

from pathlib import Path

from refsys.data.alignment import FORMATS
from refsys.data.cif_tables import BINARY
from refsys.data.compressed import inner_suffix
from refsys.data.preparation import Sources
from refsys.errors import DataError

_STRUCTURES = frozenset({".cif", ".mmcif", BINARY})


def sources_in(folder: Path) -> list[Sources]:
    """What a folder has to prepare, sorted by name.

    Structures are ``NAME.cif``, ``NAME.mmcif`` or ``NAME.bcif``; the alignment of a chain is
    ``NAME_CHAIN.a3m``, or with another suffix of `refsys.data.alignment.FORMATS`. All of them may
    be compressed (``.gz``), but Parquet. Other files, hidden ones and folders are left alone.

    Raises:
        DataError: the folder cannot be read or has no structure, two structures have one name, or
            an alignment belongs to none.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
    files = [path for path in files if not path.name.startswith(".")]
    structures: dict[str, Path] = {}
    for path in files:
        if inner_suffix(path) in _STRUCTURES:
            before = structures.setdefault(_name(path), path)
            if before != path:
                raise DataError(f"{folder}: {before.name} and {path.name} have one name")
    if not structures:
        raise DataError(f"{folder}: no structure: no file ends in .cif, .mmcif or {BINARY}")
    alignments: dict[str, dict[str, Path]] = {name: {} for name in structures}
    for path in files:
        if inner_suffix(path) in FORMATS:
            name, _, chain = _name(path).rpartition("_")
            if name not in structures or not chain:
                raise DataError(f"{path}: no structure is called {name or _name(path)}")
            before = alignments[name].setdefault(chain, path)
            if before != path:
                raise DataError(f"{folder}: {before.name} and {path.name} are of one chain")
    return [
        Sources(structure=path, alignments=alignments[name]) for name, path in structures.items()
    ]


def _name(path: Path) -> str:
    """The name of a file without what says its format."""
    stem = path.name.removesuffix(".gz")
    return stem[: stem.rindex(".")]
