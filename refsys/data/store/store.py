"""Store of prepared entries: records on disk, and a small manifest for each entry.

::

    <root>/records/<kind>/<name>/     columns, see `refsys.data.store.columns`
    <root>/examples/<entry>.json      names of the entry's records, and their source file
    <root>/relations/<entry>.json     templates among the other entries, and clusters of chains
    <root>/lock                       lock file, one byte per path, locked by the builder

A store is plain files: copy it to another machine and measure there. `refsys.data.prepare` fills
it.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from refsys.data.store.columns import MALFORMED, Columns, open_columns, write_columns
from refsys.data.store.entry_name import is_entry_name
from refsys.errors import DataError
from refsys.files import json_bytes, parse_json, write_json

# Columns and facts of a record.
Record = tuple[dict[str, NDArray[Any]], dict[str, Any]]

_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Example:
    """The open records of one entry.

    Attributes:
        entry: Name of the entry.
        structure: Structure record.
        alignments: MSA record by chain number.
        templates: Template record by chain number, for chains that have templates.
        pairing: Record of the paired rows of the distinct MSAs; None for a single MSA.
        clusters: [chain] name of its cluster of similar chains.
    """

    entry: str
    structure: Columns
    alignments: Mapping[int, Columns]
    templates: Mapping[int, Columns] = field(default_factory=dict)
    pairing: Columns | None = None
    clusters: Sequence[str] = ()

    @property
    def tokens(self) -> int:
        """Number of tokens of the whole structure."""
        return len(self.structure["token_residue_type"])

    def verify(self) -> None:
        """Read every record and compare its checksums.

        Raises:
            DataError: a record is damaged.
        """
        for columns in self._columns().values():
            columns.verify()

    def records(self) -> dict[str, str]:
        """Return the names of the records, which hash their sources, by role."""
        return {role: columns.path.name for role, columns in self._columns().items()}

    def files(self) -> list[Path]:
        """Return all files of the records."""
        return [path for c in self._columns().values() for path in sorted(c.path.iterdir())]

    def _columns(self) -> dict[str, Columns]:
        """Return the records by role, as in ``alignment 0``."""
        by_name = {"structure": self.structure}
        by_name |= {f"alignment {chain}": c for chain, c in sorted(self.alignments.items())}
        by_name |= {f"templates {chain}": c for chain, c in sorted(self.templates.items())}
        return by_name if self.pairing is None else by_name | {"pairing": self.pairing}


@dataclass(frozen=True, slots=True)
class EnsureResult:
    """Result of `Store.ensure`.

    Attributes:
        built: Whether the record had to be built.
        damage: Damage of the record that it replaced, None if there was none.
    """

    built: bool
    damage: str | None = None


class Store:
    """A folder of prepared entries. Any number of processes may read and build at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> list[str]:
        """Return the names of the prepared entries, sorted."""
        return sorted(path.stem for path in (self.root / "examples").glob("*.json"))

    def open(self, entry: str) -> Example:
        """Open an entry.

        Checksums are not compared, see `Example.verify`.

        Raises:
            DataError: the entry is not prepared, or a record cannot be read.
        """
        if not is_entry_name(entry):
            raise DataError(f"{self.root}: {entry!r} is not the name of an entry")
        path = self._manifest(entry)
        try:
            manifest = parse_json(path.read_bytes())
            structure = str(manifest["structure"])
            alignments, templates = (
                {int(chain): str(name) for chain, name in manifest[kind].items()}
                for kind in ("alignments", "templates")
            )
            pairing = manifest["pairing"]
            columns = self.record("structure", structure)
            own_clusters = [short_digest(chain["contents"]) for chain in columns.facts["chains"]]
        except FileNotFoundError:
            have = ", ".join(self.entries()) or "nothing"
            raise DataError(
                f"{self.root}: {entry} is not prepared (have: {have}); run 'foldperf prepare'"
            ) from None
        except (OSError, *MALFORMED) as error:
            raise DataError(f"{path}: unreadable ({error}); run 'foldperf prepare' again") from None
        search_templates, clusters = self._relations_of(entry, structure, own_clusters)
        return Example(
            entry,
            columns,
            {chain: self.record("alignment", name) for chain, name in alignments.items()},
            {
                chain: self.record("templates", n)
                for chain, n in (search_templates | templates).items()
            },
            self.record("pairing", str(pairing)) if pairing else None,
            clusters,
        )

    def structures(self) -> dict[str, Columns]:
        """Return the structure record of every readable entry, by entry."""
        structures = {}
        for entry in self.entries():
            try:
                manifest = parse_json(self._manifest(entry).read_bytes())
                columns = self.record("structure", str(manifest["structure"]))
                columns.verify_facts()
                structures[entry] = columns
            except (OSError, DataError, *MALFORMED):
                # The next preparation of the entry reports the damage.
                continue
        return structures

    def record(self, kind: str, name: str) -> Columns:
        """Open a record.

        Raises:
            DataError: the record is missing, or cannot be read.
        """
        return open_columns(self._path(kind, name), kind)

    def ensure(self, kind: str, name: str, build: Callable[[], Record]) -> EnsureResult:
        """Build a record unless the store has it intact; of several processes, one builds it.

        Raises:
            DataError: the record cannot be built or written.
        """
        path, damage = self._path(kind, name), None
        with self._held(path):
            if path.exists():
                try:
                    open_columns(path, kind).verify()
                except DataError as error:
                    damage = str(error).partition(";")[0]
                    _remove(path)
                else:
                    return EnsureResult(built=False)
            columns, facts = build()
            write_columns(path, kind, columns, facts)
        return EnsureResult(built=True, damage=damage)

    def sweep(self) -> int:
        """Remove unfinished files of killed processes, but not of living ones.

        Returns:
            Number of removed files and folders.
        """
        unfinished = [
            *(self.root / "records").glob("*/.*.*.*"),
            *(self.root / "examples").glob(".*.*.*.*"),
            *(self.root / "relations").glob(".*.*.*.*"),
        ]
        removed = 0
        for path in unfinished:
            # `.NAME.PROCESS.DIGITS`, see `refsys.files`.
            name = path.name[1:].rsplit(".", 2)[0]
            with self._held(path.with_name(name), wait=False) as held:
                if held and path.exists():
                    _remove(path)
                    removed += 1
        return removed

    @contextmanager
    def _held(self, path: Path, *, wait: bool = True) -> Iterator[bool]:
        """Lock a path of the store against other builders; blocks must not be nested.

        Args:
            path: Path in the store that the block builds.
            wait: Whether to wait for the lock.

        Yields:
            Whether the block holds the lock; always True with `wait`.
        """
        lock = self.root / _LOCK
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("ab")
        except OSError as error:
            raise DataError(f"{lock}: {error.strerror}") from None
        # Each path is a byte of one file: the system releases the locks of processes that die.
        digest = hashlib.sha256(str(path.relative_to(self.root)).encode()).digest()
        offset = int.from_bytes(digest[:4], "big")
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, offset)
            except BlockingIOError:
                yield False
            except OSError as error:
                raise DataError(f"{lock}: cannot be locked: {error.strerror}") from None
            else:
                yield True

    def source(self, entry: str) -> tuple[str, str] | None:
        """Return the name and SHA-256 of an entry's source file, None if there is no such entry."""
        try:
            manifest = parse_json(self._manifest(entry).read_bytes())
            return str(manifest["source"]), str(manifest["source_sha256"])
        except (OSError, *MALFORMED):
            return None

    def write_manifest(self, entry: str, manifest: Mapping[str, Any]) -> None:
        """Write the manifest of an entry, which names its records.

        Raises:
            DataError: the store cannot be written.
        """
        path = self._manifest(entry)
        try:
            with self._held(path):
                write_json(path, manifest)
        except OSError as error:
            raise DataError(f"{self.root / 'examples'}: {error.strerror}") from None

    def write_relations(self, entry: str, relations: Mapping[str, Any]) -> bool:
        """Write the relations of an entry to the others.

        Args:
            entry: Name of the entry.
            relations: ``structure``, the structure record that they are of; ``templates``, names of
                template records by chain number; ``clusters``, the cluster of each chain.

        Returns:
            Whether they changed.

        Raises:
            DataError: the store cannot be written.
        """
        path = self._relations(entry)
        try:
            with self._held(path):
                if path.exists() and path.read_bytes() == json_bytes(relations):
                    return False
                write_json(path, relations)
        except OSError as error:
            raise DataError(f"{path.parent}: {error.strerror}") from None
        return True

    def _relations_of(
        self, entry: str, structure: str, own_clusters: list[str]
    ) -> tuple[dict[int, str], list[str]]:
        """Return the template records by chain, and the clusters, of an entry.

        If they are of another structure record, or missing, there are no templates, and the
        clusters are `own_clusters`.
        """
        path = self._relations(entry)
        try:
            relations = parse_json(path.read_bytes())
            if relations["structure"] != structure:
                return {}, own_clusters
            templates = {int(chain): str(name) for chain, name in relations["templates"].items()}
            clusters = [str(cluster) for cluster in relations["clusters"]]
            if len(clusters) != len(own_clusters):
                raise ValueError(f"{len(clusters)} clusters of {len(own_clusters)} chains")
        except FileNotFoundError:
            return {}, own_clusters
        except (OSError, *MALFORMED) as error:
            raise DataError(f"{path}: unreadable ({error}); run 'foldperf prepare' again") from None
        return templates, clusters

    def _relations(self, entry: str) -> Path:
        return self.root / "relations" / f"{entry}.json"

    def _manifest(self, entry: str) -> Path:
        return self.root / "examples" / f"{entry}.json"

    def _path(self, kind: str, name: str) -> Path:
        return self.root / "records" / kind / name


def short_digest(text: str) -> str:
    """Return 12 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _remove(path: Path) -> None:
    """Remove a damaged record, or a file in its place."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise DataError(f"{path}: damaged, and cannot be removed: {error.strerror}") from None
