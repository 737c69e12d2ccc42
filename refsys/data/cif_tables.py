"""An mmCIF file as named columns of strings, with errors that name the file."""

from collections.abc import Sequence
from pathlib import Path

from refsys.errors import DataError

Column = list[str | None]


class CifTables:
    """The first data block that holds atoms."""

    def __init__(self, path: Path) -> None:
        """Reads and checks the syntax.

        Raises:
            DataError: the file cannot be read, is not CIF, or holds no atoms.
        """
        from gemmi import cif

        self.path = path
        try:
            document = cif.read(str(path))
        except Exception as error:
            # gemmi starts its messages with the path and raises several unrelated classes.
            reason = " ".join(str(error).replace(str(path), "").split()).lstrip(": ")
            raise self.error(f"not readable as mmCIF: {reason}") from None
        blocks = [block for block in document if "_atom_site." in block.get_mmcif_category_names()]
        if not blocks:
            raise self.error("no _atom_site category: not a structure, or truncated")
        self.block = blocks[0]

    def error(self, reason: str) -> DataError:
        """An error about this file."""
        return DataError(f"{self.path}: {reason}")

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
            DataError: a required category is absent, or a present one lacks a column.
        """
        table = self.block.get_mmcif_category(f"_{category}.")
        if not table:
            if required:
                raise self.error(f"no _{category} category: incomplete or truncated")
            return {name: [] for name in (*names, *optional)}
        if missing := [name for name in names if name not in table]:
            raise self.error(f"_{category} lacks {', '.join(missing)}")
        absent = [None] * len(next(iter(table.values())))
        return {
            name: [value or None for value in table.get(name, absent)]
            for name in (*names, *optional)
        }
