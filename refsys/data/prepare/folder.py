"""Discovery of a user's structures and MSAs in a folder."""

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
    """Inputs in a folder.

    Attributes:
        sources: Sources of one entry per structure, sorted by file name.
        errors: One error for each file that conflicts with another or belongs to no structure.
    """

    sources: list[Sources]
    errors: list[DataError]


def folder_contents(folder: Path) -> FolderContents:
    """Return the inputs in a folder.

    Structures are ``NAME.cif``, ``NAME.mmcif`` or ``NAME.bcif``, and name their entries, see
    `file_entry`; the MSA of a chain is ``NAME_CHAIN.a3m``, or has another suffix of
    `refsys.data.formats.msa.FORMATS`. All may be compressed (``.gz``), except Parquet. If several
    structures match, an MSA belongs to the one with the longest name. Other files, hidden files
    and folders are ignored.

    A second structure of one entry, a second MSA of one chain, and an MSA without a structure are
    errors.

    Raises:
        DataError: the folder cannot be read or has no structure.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        structures = [path for path in files if _is_input(path, _STRUCTURES)]
        msas = [path for path in files if _is_input(path, FORMATS)]
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
                    f"{path}: not prepared: {first.name} is already the entry {file_entry(path)}; "
                    "rename one of them"
                )
            )
    msas_of: dict[Path, dict[str, Path]] = {path: {} for path in entries.values()}
    for path in msas:
        try:
            structure, chain = _chain_of(path, structures)
            if structure not in msas_of:
                raise DataError(f"{path}: not used: its structure {structure.name} is not prepared")
            first = msas_of[structure].setdefault(chain, path)
            if first != path:
                raise DataError(
                    f"{path}: not used: {first.name} is of the same chain; remove one of them"
                )
        except DataError as error:
            errors.append(error)
    return FolderContents(
        [
            Sources(structure=path, name=entry, alignments=msas_of[path])
            for entry, path in entries.items()
        ],
        errors,
    )


def _is_input(path: Path, suffixes: Iterable[str]) -> bool:
    """Return whether a path is a file of these formats, or a link to one that is missing."""
    return inner_suffix(path) in suffixes and (path.is_file() or not path.exists())


def _chain_of(path: Path, structures: Iterable[Path]) -> tuple[Path, str]:
    """Return the structure and the chain of an MSA file.

    Raises:
        DataError: it belongs to no structure.
    """
    name = file_stem(path)
    by_length = sorted(structures, key=lambda path: -len(file_stem(path)))
    for normalized in (str, str.lower):
        for structure in by_length:
            stem = file_stem(structure)
            if normalized(name).startswith(f"{normalized(stem)}_") and len(name) > len(stem) + 1:
                return structure, name[len(stem) + 1 :]
    raise DataError(
        f"{path}: not used: no structure is called {name.rpartition('_')[0] or name}; "
        "expected NAME_CHAIN"
    )
