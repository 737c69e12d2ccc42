"""Reader of mmCIF and BinaryCIF into named columns of strings, with errors that name the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refsys.data.formats.binary_cif import read_binary_cif
from refsys.data.formats.compressed import inner_suffix, read_text_of
from refsys.data.formats.file_kind import MMCIF
from refsys.errors import DataError, one_line

Column = list[str | None]
BINARY = ".bcif"
# Names of ignored data blocks that a note lists.
_LISTED_BLOCKS = 3


class CifTables:
    """Tables of the first data block of a file that has atoms.

    Attributes:
        path: The file.
        name: Name of the data block.
        notes: Sentences on the data blocks that are ignored.
    """

    def __init__(self, path: Path) -> None:
        """Read a file and check its syntax.

        Args:
            path: BinaryCIF if its name ends in ``.bcif``, else mmCIF; either may be compressed,
                with ``.gz`` after that.

        Raises:
            DataError: the file cannot be read, is not CIF, or holds no atoms.
        """
        self.path = path
        binary = inner_suffix(path) == BINARY
        try:
            document = read_binary_cif(path) if binary else _read_text(path)
            blocks = [block for block in document if _has(block, "atom_site")]
            # gemmi names a block without a name by a space.
            names = [block.name.strip() for block in blocks]
            without_atoms = len(document) - len(blocks)
        except DataError:
            raise
        except Exception as error:
            # Both libraries raise several unrelated classes; gemmi prefixes "data:".
            reason = " ".join(str(error).split()).removeprefix("data:")
            what = "BinaryCIF" if binary else "mmCIF"
            raise self.error(
                f"not readable as {what}: {reason or type(error).__name__:.200}"
            ) from None
        if not blocks:
            raise self.error("no _atom_site category: not a structure, or truncated")
        self.block, self.name = blocks[0], names[0]
        self.notes = _ignored_blocks(names, without_atoms)

    def entry_id(self) -> str:
        """Return ``_entry.id``, empty where the file has none.

        Raises:
            DataError: it is not text.
        """
        column = self.columns("entry", [], optional=["id"], required=False)["id"]
        return (column[0] or "") if column else ""

    def error(self, reason: str) -> DataError:
        """Return an error about this file, in one line even if its names have line breaks."""
        return DataError(f"{self.path}: {' '.join(reason.split())}")

    def has(self, category: str) -> bool:
        """Return whether the file has a category, named without the underscore."""
        return _has(self.block, category)

    def columns(
        self,
        category: str,
        names: Sequence[str],
        *,
        optional: Sequence[str] = (),
        required: bool = True,
    ) -> dict[str, Column]:
        """Return columns of a category, None where a value is unknown or inapplicable.

        Args:
            category: Its name without the underscore.
            names: Columns that the category must have.
            optional: Columns that it may lack; a missing one is all None.
            required: Whether the category must exist; otherwise an absent one gives empty columns.

        Raises:
            DataError: a required category is absent, or a present one is not text, is mixed with
                another or lacks a column.
        """
        try:
            table = self.block.get_mmcif_category(f"_{category}.")
        except (RuntimeError, UnicodeDecodeError) as error:
            # A loop that mixes categories, or bytes that are not text.
            raise self.error(f"_{category}: {' '.join(str(error).split())}") from None
        # Names of CIF items are case-insensitive.
        table = {name.lower(): column for name, column in table.items()}
        if not table:
            if required:
                raise self.error(f"no _{category} category: incomplete or truncated")
            return {name: [] for name in (*names, *optional)}
        if missing := [name for name in names if name.lower() not in table]:
            raise self.error(f"_{category} lacks {', '.join(missing)}")
        absent = [None] * len(next(iter(table.values())))
        return {
            name: [value or None for value in table.get(name.lower(), absent)]
            for name in (*names, *optional)
        }


def _has(block: Any, category: str) -> bool:
    return f"_{category}." in map(str.lower, block.get_mmcif_category_names())


def _ignored_blocks(names: Sequence[str], without_atoms: int) -> list[str]:
    """Return a sentence on the ignored data blocks; an empty list if there are none.

    Args:
        names: Names of the data blocks that have atoms; the first is read.
        without_atoms: Number of data blocks without atoms.
    """
    ignored = []
    if structures := names[1:]:
        listed = ", ".join(structures[:_LISTED_BLOCKS])
        more = ", ..." if len(structures) > _LISTED_BLOCKS else ""
        noun = "structure" if len(structures) == 1 else "structures"
        ignored.append(f"{len(structures)} other {noun} ({listed}{more})")
    if without_atoms:
        noun = "data block" if without_atoms == 1 else "data blocks"
        ignored.append(f"{without_atoms} {noun} without atoms")
    if not ignored:
        return []
    return [one_line(f"data block {names[0]} is read; ignored: {' and '.join(ignored)}")]


def _read_text(path: Path) -> Any:
    from gemmi import cif

    content = read_text_of(path, MMCIF)
    if (nul := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, nul) + 1
        raise DataError(
            f"{path}: not readable as mmCIF: line {line}: a NUL byte; copy or download it again"
        )
    return cif.read_string(content)
