"""The store: prepared records on disk, and one small manifest for each example.

::

    <root>/records/<kind>/<name>/     columns, see `columns`
    <root>/examples/<entry>.json      which records make up an example, and where they came from

A store is plain files: copy it to another machine and measure there. `preparation` fills it.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from refsys.data.columns import MALFORMED, Columns, open_columns, write_columns
from refsys.errors import DataError
from refsys.files import write_json

# Columns and facts of a record.
Record = tuple[dict[str, NDArray[Any]], dict[str, Any]]

# An entry is a file's name and a word on the command line; synthetic inputs have one of their own.
_ENTRY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
RESERVED_ENTRY = "synthetic"


@dataclass(frozen=True, slots=True)
class Example:
    """The open records of one entry.

    Attributes:
        entry: Its name.
        structure: The structure record.
        alignments: Alignment record by chain number.
        templates: Template record by chain number, for chains that have templates.
        pairing: Which rows of the distinct alignments are of one species; None with one alignment.
    """

    entry: str
    structure: Columns
    alignments: Mapping[int, Columns]
    templates: Mapping[int, Columns] = field(default_factory=dict)
    pairing: Columns | None = None

    @property
    def tokens(self) -> int:
        """How many tokens the whole structure has."""
        return len(self.structure["token_residue_type"])

    def verify(self) -> None:
        """Reads every record and compares its checksums.

        Raises:
            DataError: one is damaged.
        """
        for columns in self._columns().values():
            columns.verify()

    def records(self) -> dict[str, str]:
        """Names of the records, which say what they were made from, by what they are."""
        return {what: columns.path.name for what, columns in self._columns().items()}

    def _columns(self) -> dict[str, Columns]:
        """Every record by what it is."""
        found = {"structure": self.structure}
        found |= {f"alignment {chain}": c for chain, c in sorted(self.alignments.items())}
        found |= {f"templates {chain}": c for chain, c in sorted(self.templates.items())}
        return found if self.pairing is None else found | {"pairing": self.pairing}


class Store:
    """A folder of prepared examples. Any number of processes may read and build at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> list[str]:
        """Names of the prepared examples, sorted."""
        return sorted(path.stem for path in (self.root / "examples").glob("*.json"))

    def open(self, entry: str) -> Example:
        """Opens an example.

        Raises:
            DataError: it was not prepared, or a record cannot be read. Contents are not compared
                with their checksums: see `Example.verify`.
        """
        if not _ENTRY.fullmatch(entry):
            raise DataError(f"{self.root}: {entry!r} is not the name of an entry")
        path = self._manifest(entry)
        try:
            manifest = json.loads(path.read_bytes())
            structure = str(manifest["structure"])
            alignments, templates = (
                {int(chain): str(name) for chain, name in manifest[kind].items()}
                for kind in ("alignments", "templates")
            )
            pairing = manifest["pairing"]
        except FileNotFoundError:
            have = ", ".join(self.entries()) or "nothing"
            raise DataError(
                f"{self.root}: {entry} is not prepared (have: {have}); run 'foldperf prepare'"
            ) from None
        except (OSError, *MALFORMED) as error:
            raise DataError(f"{path}: unreadable ({error}); run 'foldperf prepare' again") from None
        return Example(
            entry,
            self.record("structure", structure),
            {chain: self.record("alignment", name) for chain, name in alignments.items()},
            {chain: self.record("templates", name) for chain, name in templates.items()},
            self.record("pairing", str(pairing)) if pairing else None,
        )

    def record(self, kind: str, name: str) -> Columns:
        """Opens a record.

        Raises:
            DataError: it is not there, or cannot be read.
        """
        return open_columns(self._path(kind, name), kind)

    def ensure(self, kind: str, name: str, build: Callable[[], Record]) -> int:
        """Builds a record unless an intact one is there; returns how many it built.

        Raises:
            DataError: it cannot be built or written.
        """
        path = self._path(kind, name)
        if path.exists():
            try:
                open_columns(path, kind).verify()
            except DataError:
                _remove(path)
            else:
                return 0
        columns, facts = build()
        write_columns(path, kind, columns, facts)
        return 1

    def source(self, entry: str) -> tuple[str, str] | None:
        """Name and hash of the file that an entry was made from, if there is one."""
        try:
            manifest = json.loads(self._manifest(entry).read_bytes())
            return str(manifest["source"]), str(manifest["source_sha256"])
        except (OSError, *MALFORMED):
            return None

    def write_manifest(self, entry: str, manifest: Mapping[str, Any]) -> None:
        """Says which records make up an entry.

        Raises:
            DataError: the store cannot be written.
        """
        try:
            write_json(self._manifest(entry), manifest)
        except OSError as error:
            raise DataError(f"{self.root / 'examples'}: {error.strerror}") from None

    def _manifest(self, entry: str) -> Path:
        return self.root / "examples" / f"{entry}.json"

    def _path(self, kind: str, name: str) -> Path:
        return self.root / "records" / kind / name


def check_entry(path: Path, name: str) -> str:
    """The entry that a data block names.

    Raises:
        DataError: it cannot name one.
    """
    entry = name.lower()
    if not _ENTRY.fullmatch(entry) or entry == RESERVED_ENTRY:
        raise DataError(
            f"{path}: data block {name!r:.80} cannot name an entry: letters, digits, "
            f"'_', '.' and '-', 64 at most, and not {RESERVED_ENTRY}"
        )
    return entry


def _remove(path: Path) -> None:
    """Removes what stands where a record should."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise DataError(f"{path}: damaged, and cannot be removed: {error.strerror}") from None
