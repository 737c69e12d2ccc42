"""A folder of a user's own structures and alignments."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from refsys.data.formats.cif_tables import BINARY
from refsys.data.formats.compressed import inner_suffix
from refsys.data.formats.msa import FORMATS
from refsys.data.prepare.entries import Sources
from refsys.data.store.entry_name import file_entry, file_stem
from refsys.errors import DataError

_STRUCTURES = frozenset({".cif", ".mmcif", BINARY})


class FolderContents(NamedTuple):
    """The inputs of a folder.

    Attributes:
        sources: One entry for each structure, sorted by file name.
        errors: One for each file that cannot be used beside the others.
    """

    sources: list[Sources]
    errors: list[DataError]


def folder_contents(folder: Path) -> FolderContents:
    """Return what a folder has to prepare.

    Structures are ``NAME.cif``, ``NAME.mmcif`` or ``NAME.bcif``, and name their entries, see
    `file_entry`; the alignment of a chain is ``NAME_CHAIN.a3m``, or with another suffix of
    `refsys.data.formats.msa.FORMATS`. All may be compressed (``.gz``), except Parquet. Where
    the names of several structures fit, an alignment belongs to the longest. Other files, hidden
    ones and folders are left alone.

    Structures whose entries have one name are errors but the first, and so are alignments of one
    chain, and alignments that belong to no structure.

    Raises:
        DataError: the folder cannot be read or has no structure.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        structures = [path for path in files if _is_input(path, _STRUCTURES)]
        alignments = [path for path in files if _is_input(path, FORMATS)]
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from None
    if not structures:
        raise DataError(f"{folder}: no structure: no file ends in .cif, .mmcif or {BINARY}")
    errors: list[DataError] = []
    entries: dict[str, Path] = {}
    for path in structures:
        first = entries.setdefault(file_entry(path), path)
        if first != path:
            errors.append(
                DataError(
                    f"{path}: not prepared: {first.name} is the entry {file_entry(path)} already; "
                    "rename one of them"
                )
            )
    given: dict[Path, dict[str, Path]] = {path: {} for path in entries.values()}
    for path in alignments:
        try:
            structure, chain = _chain_of(path, structures)
            if structure not in given:
                raise DataError(f"{path}: not used: its structure {structure.name} is not prepared")
            first = given[structure].setdefault(chain, path)
            if first != path:
                raise DataError(
                    f"{path}: not used: {first.name} is of the same chain; remove one of them"
                )
        except DataError as error:
            errors.append(error)
    return FolderContents(
        [
            Sources(structure=path, name=entry, alignments=given[path])
            for entry, path in entries.items()
        ],
        errors,
    )


def _is_input(path: Path, suffixes: Iterable[str]) -> bool:
    """Return whether a path is a file of these formats, or a link to one that is missing."""
    return inner_suffix(path) in suffixes and (path.is_file() or not path.exists())


def _chain_of(alignment: Path, structures: Iterable[Path]) -> tuple[Path, str]:
    """Return the structure that an alignment belongs to, and its chain.

    Raises:
        DataError: it belongs to none.
    """
    name = file_stem(alignment)
    by_length = sorted(structures, key=lambda path: -len(file_stem(path)))
    for fold in (str, str.lower):
        for structure in by_length:
            stem = file_stem(structure)
            if fold(name).startswith(f"{fold(stem)}_") and len(name) > len(stem) + 1:
                return structure, name[len(stem) + 1 :]
    raise DataError(
        f"{alignment}: not used: no structure is called {name.rpartition('_')[0] or name}; "
        "expected NAME_CHAIN"
    )
