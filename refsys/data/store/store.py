"""The store: prepared records on disk, and one small manifest for each example.

::

    <root>/records/<kind>/<name>/     columns, see `columns`
    <root>/examples/<entry>.json      which records make up an example, and where they came from
    <root>/relations/<entry>.json     what the other examples are to it: templates, clusters
    <root>/lock                       held, a byte for each record, by who builds it

A store is plain files: copy it to another machine and measure there. `preparation` fills it.
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
        entry: Its name.
        structure: The structure record.
        alignments: Alignment record by chain number.
        templates: Template record by chain number, for chains that have templates.
        pairing: Which rows of the distinct alignments are of one species; None with one alignment.
        clusters: [chain] what tells chains of like sequence or content together.
    """

    entry: str
    structure: Columns
    alignments: Mapping[int, Columns]
    templates: Mapping[int, Columns] = field(default_factory=dict)
    pairing: Columns | None = None
    clusters: Sequence[str] = ()

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

    def files(self) -> list[Path]:
        """Every file of its records."""
        return [path for c in self._columns().values() for path in sorted(c.path.iterdir())]

    def _columns(self) -> dict[str, Columns]:
        """Every record by what it is."""
        found = {"structure": self.structure}
        found |= {f"alignment {chain}": c for chain, c in sorted(self.alignments.items())}
        found |= {f"templates {chain}": c for chain, c in sorted(self.templates.items())}
        return found if self.pairing is None else found | {"pairing": self.pairing}


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a record that was asked for.

    Attributes:
        built: Whether it had to be built.
        damage: What was wrong with the one that stood there.
    """

    built: bool
    damage: str | None = None


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
            own = [short_digest(chain["contents"]) for chain in columns.facts["chains"]]
        except FileNotFoundError:
            have = ", ".join(self.entries()) or "nothing"
            raise DataError(
                f"{self.root}: {entry} is not prepared (have: {have}); run 'foldperf prepare'"
            ) from None
        except (OSError, *MALFORMED) as error:
            raise DataError(f"{path}: unreadable ({error}); run 'foldperf prepare' again") from None
        found, clusters = self._relations_of(entry, structure, own)
        return Example(
            entry,
            columns,
            {chain: self.record("alignment", name) for chain, name in alignments.items()},
            {chain: self.record("templates", n) for chain, n in (found | templates).items()},
            self.record("pairing", str(pairing)) if pairing else None,
            clusters,
        )

    def structures(self) -> dict[str, Columns]:
        """The structure record of every entry that can be read, by entry."""
        found = {}
        for entry in self.entries():
            try:
                manifest = parse_json(self._manifest(entry).read_bytes())
                columns = self.record("structure", str(manifest["structure"]))
                columns.verify_facts()
                found[entry] = columns
            except (OSError, DataError, *MALFORMED):
                # Preparing the entry again will say why.
                continue
        return found

    def record(self, kind: str, name: str) -> Columns:
        """Opens a record.

        Raises:
            DataError: it is not there, or cannot be read.
        """
        return open_columns(self._path(kind, name), kind)

    def ensure(self, kind: str, name: str, build: Callable[[], Record]) -> Made:
        """Builds a record unless an intact one is there; of several processes, one builds it.

        Raises:
            DataError: it cannot be built or written.
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
                    return Made(built=False)
            columns, facts = build()
            write_columns(path, kind, columns, facts)
        return Made(built=True, damage=damage)

    def sweep(self) -> int:
        """Removes what processes left unfinished that were killed; returns how many pieces.

        What a living process is building stays.
        """
        left = [
            *(self.root / "records").glob("*/.*.*.*"),
            *(self.root / "examples").glob(".*.*.*.*"),
            *(self.root / "relations").glob(".*.*.*.*"),
        ]
        removed = 0
        for path in left:
            # `.NAME.PROCESS.DIGITS`, see `refsys.files`.
            name = path.name[1:].rsplit(".", 2)[0]
            with self._held(path.with_name(name), wait=False) as held:
                if held and path.exists():
                    _remove(path)
                    removed += 1
        return removed

    @contextmanager
    def _held(self, path: Path, *, wait: bool = True) -> Iterator[bool]:
        """Inside the block nobody else builds what becomes `path`. Blocks may not be nested.

        Args:
            path: In the store.
            wait: Whether to wait for others; if not, the block is told whether it holds the lock.
        """
        lock = self.root / _LOCK
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("ab")
        except OSError as error:
            raise DataError(f"{lock}: {error.strerror}") from None
        # One byte of one file stands for each path: locks of processes that die are released.
        digest = hashlib.sha256(str(path.relative_to(self.root)).encode()).digest()
        place = int.from_bytes(digest[:4], "big")
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
            except BlockingIOError:
                yield False
            except OSError as error:
                raise DataError(f"{lock}: cannot be locked: {error.strerror}") from None
            else:
                yield True

    def source(self, entry: str) -> tuple[str, str] | None:
        """Name and hash of the file that an entry was made from, if there is one."""
        try:
            manifest = parse_json(self._manifest(entry).read_bytes())
            return str(manifest["source"]), str(manifest["source_sha256"])
        except (OSError, *MALFORMED):
            return None

    def write_manifest(self, entry: str, manifest: Mapping[str, Any]) -> None:
        """Says which records make up an entry.

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
        """Says what an entry is to the others; returns whether that is news.

        Args:
            entry: Which.
            relations: ``structure``, the record of which it is said; ``templates``, names of the
                records by chain number; ``clusters``, the cluster of each chain.

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
        self, entry: str, structure: str, own: list[str]
    ) -> tuple[dict[int, str], list[str]]:
        """Template records by chain, and clusters, as they were found when it had this structure.

        If it was another, there are no templates, and each chain is a cluster of its own.
        """
        path = self._relations(entry)
        try:
            relations = parse_json(path.read_bytes())
            if relations["structure"] != structure:
                return {}, own
            templates = {int(chain): str(name) for chain, name in relations["templates"].items()}
            clusters = [str(cluster) for cluster in relations["clusters"]]
            if len(clusters) != len(own):
                raise ValueError(f"{len(clusters)} clusters of {len(own)} chains")
        except FileNotFoundError:
            return {}, own
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
    """12 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _remove(path: Path) -> None:
    """Removes what stands where a record should."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        raise DataError(f"{path}: damaged, and cannot be removed: {error.strerror}") from None
