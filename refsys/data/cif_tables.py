"""An mmCIF or BinaryCIF file as named columns of strings, with errors that name the file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refsys.data.binary_cif import read_binary_cif
from refsys.data.compressed import inner_suffix
from refsys.errors import DataError

Column = list[str | None]
BINARY = ".bcif"


class CifTables:
    """The first data block that holds atoms.

    Attributes:
        path: The file.
        name: The data block's.
    """

    def __init__(self, path: Path) -> None:
        """Reads and checks the syntax.

        Args:
            path: BinaryCIF if its name ends in ``.bcif``, else mmCIF; both may be compressed, with
                ``.gz`` behind.

        Raises:
            DataError: the file cannot be read, is not CIF, or holds no atoms.
        """
        self.path = path
        binary = inner_suffix(path) == BINARY
        try:
            document = read_binary_cif(path) if binary else _read_text(path)
            blocks = [block for block in document if _has(block, "atom_site")]
            names = [block.name for block in blocks]
        except DataError:
            raise
        except Exception as error:
            # Both libraries raise several unrelated classes; gemmi starts with the path.
            reason = " ".join(str(error).replace(str(path), "").split()).lstrip(": ")
            what = "BinaryCIF" if binary else "mmCIF"
            raise self.error(
                f"not readable as {what}: {reason or type(error).__name__:.200}"
            ) from None
        if not blocks:
            raise self.error("no _atom_site category: not a structure, or truncated")
        self.block, self.name = blocks[0], names[0]

    def error(self, reason: str) -> DataError:
        """Return an error about this file, in one line whatever names the file has."""
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
        """Columns of a category, None where a value is unknown or inapplicable.

        Args:
            category: Its name without the underscore.
            names: Columns that it must have.
            optional: Columns that it may lack; each is then None throughout.
            required: Whether the category must exist; if not, an absent one gives empty columns.

        Raises:
            DataError: a required category is absent, or a present one is not text, is mixed with
                another or lacks a column.
        """
        try:
            table = self.block.get_mmcif_category(f"_{category}.")
        except (RuntimeError, UnicodeDecodeError) as error:
            # A loop that mixes categories, or bytes that are no text.
            raise self.error(f"_{category}: {' '.join(str(error).split())}") from None
        # Names of CIF items are compared without case.
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


def _read_text(path: Path) -> Any:
    from gemmi import cif

    return cif.read(str(path))
