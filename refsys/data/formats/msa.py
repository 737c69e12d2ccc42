"""Reader of MSAs: A3M, Stockholm or Parquet to rows of residue classes, deletions and species."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.a3m import read_a3m, without_stops
from refsys.data.formats.compressed import check_kind, inner_suffix, read_head
from refsys.data.formats.file_kind import PARQUET
from refsys.data.formats.realign import onto_query
from refsys.data.formats.species import UNKNOWN_SPECIES, species_number
from refsys.data.formats.stockholm import read_stockholm
from refsys.data.vocabulary import ILLEGAL_LETTER, PROTEIN_LETTERS, RESIDUE_CLASSES
from refsys.errors import DataError

_MAX_DELETIONS = 255
_GAP_LETTER = ord("-")
# Formats by the suffix of a file's name.
FORMATS = {
    ".a3m": "A3M",
    ".sto": "Stockholm",
    ".stk": "Stockholm",
    ".stockholm": "Stockholm",
    ".pqt": "Parquet",
    ".parquet": "Parquet",
}
_PARQUET_COLUMNS = ("sequence", "pairing_key", "comment")


class Msa(NamedTuple):
    """An MSA as read from a file.

    Attributes:
        columns: Columns of its record, see `msa_columns`.
        notes: Sentences on what the file has and the record lacks.
    """

    columns: dict[str, NDArray[Any]]
    notes: tuple[str, ...]


def read_msa(
    path: Path,
    query: str | None = None,
    *,
    realign: bool = False,
    alternatives: Mapping[int, str] = MappingProxyType({}),
) -> dict[str, NDArray[Any]]:
    """Read an MSA and return the columns of its record, see `read_msa_file`."""
    return read_msa_file(path, query, realign=realign, alternatives=alternatives).columns


def read_msa_file(
    path: Path,
    query: str | None = None,
    *,
    realign: bool = False,
    alternatives: Mapping[int, str] = MappingProxyType({}),
) -> Msa:
    """Read an MSA in the format that the suffix of the file names, see `FORMATS`.

    A3M and Stockholm are gzip-compressed if the name ends in ``.gz``; species are read from the
    headers, see `species_number`. The first row of a Stockholm file is the query, and columns in
    which it has a gap are insertions. Parquet has a row's A3M text in ``sequence``, its header in
    ``comment``, and its species in ``pairing_key``, which is empty for a row that must not be
    paired. A ``*`` that ends a row is left out.

    Rows that differ only in their insertions and species are merged into the first of them, with
    the species of all.

    Args:
        path: The file. Its first row is the query.
        query: Sequence that the first row must match, X matching anything; the record has this
            sequence as its first row.
        realign: Whether to realign the MSA of another query onto `query`, see `onto_query`.
        alternatives: Letters that the first row may have in place of the query's, by index: the
            other components that SEQRES lists at the position.

    Raises:
        DataError: the file is missing, damaged, empty, ragged, of another format, or of another
            sequence; or a package to read or realign it is missing.
    """
    text = _READERS.get(FORMATS.get(inner_suffix(path), "A3M"), _read_a3m)(path)
    letters, deletions = _split(path, text)
    _check_letters(path, letters, text.location)
    species = text.species
    if query is not None:
        first_row = letters[0].tobytes().decode("ascii")
        difference = _difference(first_row, query, alternatives)
        if difference and not realign:
            insertions = int(text.lengths[0]) - len(first_row)
            hint = f"; {insertions} of its letters are in lower case" if insertions else ""
            raise DataError(f"{path}: {difference}{hint}")
        if difference:
            try:
                letters, deletions = onto_query(letters, deletions, query)
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
            species = np.insert(species, 0, UNKNOWN_SPECIES)
        else:
            # The file may have an X for a residue of the chain, a residue for its X, or an
            # alternative component.
            letters = letters.copy()
            letters[0] = np.frombuffer(query.encode("ascii"), np.uint8)
    return Msa(_distinct(letters, deletions, species), text.notes)


def query_only(query: str) -> dict[str, NDArray[Any]]:
    """Return the columns of an MSA that has the query alone."""
    codes = PROTEIN_LETTERS[np.frombuffer(query.encode("ascii"), np.uint8)][None]
    return msa_columns(codes, np.zeros_like(codes), np.array([UNKNOWN_SPECIES], np.int32))


def msa_columns(
    codes: NDArray[np.uint8],
    deletions: NDArray[np.uint8],
    species: NDArray[np.int32],
    further_species: NDArray[np.int32] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the columns of an MSA record.

    Args:
        codes: [row, column] residue classes; row 0 is the query.
        deletions: [row, column] residues of the row that are inserted before the column, at most
            255.
        species: [row] number of the species, −1 where unknown.
        further_species: [occurrence, (row, species)] other species that have the same row.

    Returns:
        The four arguments unchanged, ``profile`` [column, class] float32 frequencies, and
        ``deletion_mean`` [column] float32.
    """
    columns = codes.shape[1]
    cells = np.arange(columns) * RESIDUE_CLASSES + codes
    counts = np.bincount(cells.reshape(-1), minlength=columns * RESIDUE_CLASSES)
    if further_species is None:
        further_species = np.zeros((0, 2), np.int32)
    return {
        "codes": codes,
        "deletions": deletions,
        "species": species,
        "further_species": further_species,
        "profile": (counts.reshape(columns, -1) / len(codes)).astype(np.float32),
        "deletion_mean": deletions.mean(axis=0, dtype=np.float64).astype(np.float32),
    }


@dataclass(frozen=True, slots=True)
class _Text:
    """Rows of a file.

    Attributes:
        letters: A3M text of all rows, concatenated.
        lengths: [row] number of letters.
        species: [row] number of the species.
        location: Function from a row to its location in the file for messages, as in ``line 3``.
        notes: Sentences on what was left out.
    """

    letters: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    species: NDArray[np.int32]
    location: Callable[[int], str]
    notes: tuple[str, ...] = ()


def _read_a3m(path: Path) -> _Text:
    text = read_a3m(path)
    return _Text(
        np.frombuffer(b"".join(text.rows), np.uint8),
        np.fromiter(map(len, text.rows), np.int64, len(text.rows)),
        np.fromiter(map(species_number, text.headers), np.int32, len(text.rows)),
        lambda row: f"line {text.lines[row]}",
        tuple(text.notes),
    )


def _read_stockholm(path: Path) -> _Text:
    msa = read_stockholm(path)
    return _Text(
        msa.letters,
        msa.lengths,
        np.fromiter(map(species_number, msa.headers), np.int32, len(msa.headers)),
        lambda row: f"line {msa.lines[row]}",
    )


def _read_parquet(path: Path) -> _Text:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path}: reading Parquet needs pyarrow: pip install 'foldperf[data]'"
        ) from None
    check_kind(path, read_head(path), PARQUET)
    try:
        with path.open("rb") as raw, parquet.ParquetFile(raw) as file:
            names = file.schema_arrow.names
            if missing := [name for name in _PARQUET_COLUMNS if name not in names]:
                raise DataError(f"{path}: no column {missing[0]}; it has {', '.join(names)}")
            table = file.read(columns=list(_PARQUET_COLUMNS))
            sequence, key, comment = (
                table[name].cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
                for name in _PARQUET_COLUMNS
            )
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise DataError(f"{path}: not readable: {reason}") from None
    if not sequence:
        raise DataError(f"{path}: no rows: empty or truncated")
    if not all(sequence):
        row = next(number for number, text in enumerate(sequence, start=1) if not text)
        raise DataError(f"{path}: row {row}: no sequence")
    sequence = without_stops(sequence)
    species = (
        species_number(header or b"", name) if name else UNKNOWN_SPECIES
        for header, name in zip(comment, key, strict=True)
    )
    return _Text(
        np.frombuffer(b"".join(sequence), np.uint8),
        np.fromiter(map(len, sequence), np.int64, len(sequence)),
        np.fromiter(species, np.int32, len(sequence)),
        lambda row: f"row {row + 1}",
    )


_READERS = {"A3M": _read_a3m, "Stockholm": _read_stockholm, "Parquet": _read_parquet}


def _split(path: Path, text: _Text) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Split aligned letters from insertions (lower case), which become deletion counts."""
    inserted = (text.letters >= ord("a")) & (text.letters <= ord("z"))
    at = np.flatnonzero(inserted)
    starts = np.cumsum(text.lengths) - text.lengths
    insertions = np.diff(np.searchsorted(at, starts), append=len(at))
    width = text.lengths - insertions
    if not width[0]:
        in_lower_case = (
            "; it is in lower case, which A3M has for insertions: write it in upper case"
        )
        raise DataError(
            f"{path}: {text.location(0)}: the query has no aligned column"
            f"{in_lower_case if insertions[0] else ''}"
        )
    ragged = np.flatnonzero(width != width[0])
    if ragged.size:
        row = int(ragged[0])
        lower_case = insertions[row] and f" and {insertions[row]} insertions, in lower case"
        raise DataError(
            f"{path}: {text.location(row)}: {width[row]} aligned columns{lower_case or ''}; "
            f"the query has {width[0]}"
        )
    shape = (len(width), int(width[0]))
    letters = text.letters[~inserted].reshape(shape)
    # The cell after an insertion is the number of aligned letters before it. After the last column
    # of a row that cell belongs to the next row.
    cell = at - np.arange(len(at))
    cell = cell[cell < np.repeat(np.cumsum(width), insertions)]
    cells, counts = np.unique(cell, return_counts=True)
    deletions = np.zeros(letters.size, np.uint8)
    deletions[cells] = np.minimum(counts, _MAX_DELETIONS)
    return letters, deletions.reshape(shape)


def _check_letters(path: Path, letters: NDArray[np.uint8], location: Callable[[int], str]) -> None:
    illegal = PROTEIN_LETTERS[letters] == ILLEGAL_LETTER
    if illegal.any():
        row, column = divmod(int(np.argmax(illegal)), letters.shape[1])
        raise DataError(
            f"{path}: {location(row)}: {chr(letters[row, column])!r} in column {column + 1} is "
            "not a residue or a gap"
        )
    if (letters[0] == _GAP_LETTER).any():
        column = int(np.argmax(letters[0] == _GAP_LETTER))
        raise DataError(f"{path}: {location(0)}: the query has a gap in column {column + 1}")


def _difference(first_row: str, query: str, alternatives: Mapping[int, str]) -> str | None:
    """Return a sentence on the first difference of a file's query and the chain, None if none."""
    if len(first_row) != len(query):
        return f"the query has {len(first_row)} residues; the chain has {len(query)}"
    for index, (letter, listed) in enumerate(zip(first_row, query, strict=True)):
        if letter != listed and "X" not in {letter, listed}:
            substitutes = alternatives.get(index, "")
            if letter not in substitutes:
                expected = " or ".join([listed, *substitutes])
                return f"the query has {letter} in column {index + 1}; the chain has {expected}"
    return None


def _distinct(
    letters: NDArray[np.uint8], deletions: NDArray[np.uint8], species: NDArray[np.int32]
) -> dict[str, NDArray[Any]]:
    """Return the columns of the distinct rows, each with the species of all its repetitions."""
    number_of: dict[bytes, int] = {}
    texts = letters.view(f"S{letters.shape[1]}")[:, 0].tolist()
    number = np.fromiter(
        (number_of.setdefault(text, len(number_of)) for text in texts), np.int64, len(texts)
    )
    first_rows = np.unique(number, return_index=True)[1]
    with_species = np.flatnonzero(species >= 0)
    pairs = np.stack([number[with_species], species[with_species]], axis=1)
    pairs, first_occurrence = np.unique(pairs, axis=0, return_index=True)
    order = np.lexsort([first_occurrence, pairs[:, 0]])
    rows_with_species, first = np.unique(pairs[order, 0], return_index=True)
    leading = np.full(len(first_rows), UNKNOWN_SPECIES, np.int32)
    leading[rows_with_species] = pairs[order[first], 1]
    further = np.delete(pairs, order[first], axis=0).astype(np.int32)
    return msa_columns(
        PROTEIN_LETTERS[letters[first_rows]], deletions[first_rows], leading, further
    )
