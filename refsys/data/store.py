"""The store: prepared records on disk, and one small manifest for each example.

::

    <root>/records/<kind>/<name>/     columns, see `columns`
    <root>/examples/<entry>.json      which records make up an example, and where they came from

A store is plain files: copy it to another machine and measure there.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from refsys.data.columns import MALFORMED, Columns, open_columns, record_name, write_columns
from refsys.errors import DataError
from refsys.files import write_json

_Record = tuple[dict[str, NDArray[Any]], dict[str, Any]]

# An entry is a file's name and a word on the command line; synthetic inputs have one of their own.
_ENTRY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
RESERVED_ENTRY = "synthetic"

_HERE = Path(__file__).parent
# The modules that decide what a record of each kind holds: their text is part of its name.
_MAKERS = {
    "structure": ("atom_site", "cif_tables", "mmcif", "store", "tokens", "vocabulary"),
    "alignment": ("alignment", "vocabulary"),
}


@dataclass(frozen=True, slots=True)
class Example:
    """The open records of one entry.

    Attributes:
        entry: Its name.
        structure: The structure record.
        alignments: Alignment record by chain number.
    """

    entry: str
    structure: Columns
    alignments: Mapping[int, Columns]

    @property
    def tokens(self) -> int:
        """How many tokens the whole structure has."""
        return len(self.structure["token_residue_type"])

    def verify(self) -> None:
        """Reads every record and compares its checksums.

        Raises:
            DataError: one is damaged.
        """
        for columns in (self.structure, *self.alignments.values()):
            columns.verify()

    def records(self) -> dict[str, str]:
        """Names of the records, which say what they were made from, by what they are."""
        alignments = {f"alignment {k}": c.path.name for k, c in sorted(self.alignments.items())}
        return {"structure": self.structure.path.name} | alignments


@dataclass(frozen=True, slots=True)
class Prepared:
    """What preparing an entry did.

    Attributes:
        entry: Its name.
        tokens: Its size.
        built: Records that were made; 0 if all were there.
        replaced: The other source file that the entry was made from before.
    """

    entry: str
    tokens: int
    built: int
    replaced: str | None = None


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
        path = self.root / "examples" / f"{entry}.json"
        try:
            manifest = json.loads(path.read_bytes())
            structure = str(manifest["structure"])
            alignments = {int(chain): str(name) for chain, name in manifest["alignments"].items()}
        except FileNotFoundError:
            have = ", ".join(self.entries()) or "nothing"
            raise DataError(
                f"{self.root}: {entry} is not prepared (have: {have}); run 'foldperf prepare'"
            ) from None
        except (OSError, *MALFORMED) as error:
            raise DataError(f"{path}: unreadable ({error}); run 'foldperf prepare' again") from None
        return Example(
            entry,
            open_columns(self._record("structure", structure), "structure"),
            {
                chain: open_columns(self._record("alignment", name), "alignment")
                for chain, name in alignments.items()
            },
        )

    def prepare(self, path: Path, alignments: Mapping[str, Path]) -> Prepared:
        """Builds the records of one structure, unless intact ones are there already.

        Args:
            path: An mmCIF file.
            alignments: A3M file by chain name (label_asym_id). Protein chains without one, and
                whose sequence no other chain brings one for, get their sequence alone.

        Raises:
            DataError: a file cannot be used, an alignment names a chain that is not a protein, or
                the store cannot be written.
        """
        sources = {"file": _digest(path), "makers": _makers_digest("structure")}
        name = record_name("structure", sources)
        built = self._ensure("structure", name, lambda: _structure_record(path))
        structure = open_columns(self._record("structure", name), "structure")
        chains: list[dict[str, str]] = structure.facts["chains"]
        proteins = {chain["name"]: chain for chain in chains if chain["kind"] == "protein"}
        if unknown := sorted(set(alignments) - set(proteins)):
            raise DataError(
                f"{path}: an alignment is given for {', '.join(unknown)}, but its protein chains "
                f"are {', '.join(proteins) or 'none'}"
            )
        by_sequence: dict[str, Path] = {}
        for given, file in alignments.items():
            by_sequence.setdefault(proteins[given]["sequence"], file)
        records: dict[str, str] = {}
        for number, chain in enumerate(chains):
            if chain["kind"] == "protein":
                sequence = chain["sequence"]
                own = alignments.get(chain["name"], by_sequence.get(sequence))
                record, new = self._prepare_alignment(sequence, own)
                records[str(number)] = record
                built += new
        entry = structure.facts["entry"]
        manifest = {
            "structure": name,
            "alignments": records,
            "source": path.name,
            "source_sha256": sources["file"],
        }
        before = self._source(entry)
        try:
            write_json(self.root / "examples" / f"{entry}.json", manifest)
        except OSError as error:
            raise DataError(f"{self.root / 'examples'}: {error.strerror}") from None
        replaced = before[0] if before and before[1] != sources["file"] else None
        return Prepared(entry, len(structure["token_residue_type"]), built, replaced)

    def _source(self, entry: str) -> tuple[str, str] | None:
        """Name and hash of the file that an entry was made from, if there is one."""
        try:
            manifest = json.loads((self.root / "examples" / f"{entry}.json").read_bytes())
            return str(manifest["source"]), str(manifest["source_sha256"])
        except (OSError, *MALFORMED):
            return None

    def _prepare_alignment(self, sequence: str, file: Path | None) -> tuple[str, int]:
        from refsys.data.alignment import query_only, read_a3m

        sources = {
            "sequence": sequence,
            "file": _digest(file) if file else None,
            "makers": _makers_digest("alignment"),
        }
        name = record_name("alignment", sources)

        def build() -> _Record:
            columns = read_a3m(file, sequence) if file else query_only(sequence)
            facts = {"sequence": sequence, "source": file.name if file else "query only"}
            return columns, facts | {"rows": len(columns["codes"])}

        return name, self._ensure("alignment", name, build)

    def _record(self, kind: str, name: str) -> Path:
        return self.root / "records" / kind / name

    def _ensure(self, kind: str, name: str, build: Callable[[], _Record]) -> int:
        """Builds a record unless an intact one is there; returns how many it built."""
        path = self._record(kind, name)
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


def _structure_record(path: Path) -> _Record:
    from refsys.data.mmcif import read_structure
    from refsys.data.tokens import chain_sequence, structure_columns

    structure = read_structure(path)
    entry = structure.entry.lower()
    if not _ENTRY.fullmatch(entry) or entry == RESERVED_ENTRY:
        raise DataError(
            f"{path}: data block {structure.entry!r:.80} cannot name an entry: letters, digits, "
            f"'_', '.' and '-', 64 at most, and not {RESERVED_ENTRY}"
        )
    columns = structure_columns(structure)
    if not len(columns["token_residue_type"]):
        raise DataError(f"{path}: no tokens")
    chains = [
        {
            "name": chain.name,
            "entity": chain.entity,
            "kind": chain.kind,
            "sequence": chain_sequence(structure, number) if chain.kind == "protein" else "",
        }
        for number, chain in enumerate(structure.chains)
    ]
    return columns, {"entry": entry, "chains": chains}


def _remove(path: Path) -> None:
    """Removes what stands where a record should."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise DataError(f"{path}: damaged, and cannot be removed: {error.strerror}") from None


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


@cache
def _makers_digest(kind: str) -> str:
    text = b"".join((_HERE / f"{module}.py").read_bytes() for module in _MAKERS[kind])
    return hashlib.sha256(text).hexdigest()
