"""Records as asv's result files: of any machine, without asv.

A file holds the figures of one machine, commit, accelerator, driver and torch. Earlier results are
preserved: all those of ``asv run``, and those of earlier exports for cases that are not exported
again.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.asv import selectors
from bench.asv.benchmarks import (
    PARAMETERS,
    VERSION,
    Figures,
    description,
    figures,
    tracked_by,
)
from bench.errors import StorageError
from bench.records.origin import Host
from bench.records.record import Record
from refsys.files import write_json

if TYPE_CHECKING:
    from workloads.workload import Catalogue

BENCHMARKS = "benchmarks.json"
MACHINE = "machine.json"
# Versions of the files' forms, as asv counts them.
_MACHINE_FORM = 1
_FORM = 2
_COLUMNS = ["result", "params", "version"]
# Raised by JSON of another form than expected.
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError)
# Characters of a processor's name in the name of a folder.
_LONGEST_SLUG = 64
# Fields of its machine that a result file repeats.
_MACHINE_FIELDS = ("machine", "os", "arch", "cpu", "num_cpu", "ram")

# Parameters as asv keeps them: the text of each value.
CaseTexts = tuple[str, ...]
Row = dict[CaseTexts, float | None]
# Commit, machine and environment that share a result file.
_Group = tuple[str, Host, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export.

    Attributes:
        files: Result files that were written.
        figures: Number of figures in the records.
        failed: Number of records of cases that were not measured.
        untraceable: Number of records of source that no commit holds.
        errors: Error of each result file that could not be written.
    """

    files: tuple[Path, ...]
    figures: int
    failed: int
    untraceable: int
    errors: tuple[StorageError, ...] = ()


def export(records: Iterable[Record], out: Path, catalogue: "Catalogue") -> Exported:
    """Write records into asv's folder of results.

    Args:
        records: Valid records. Cases that were not measured leave a gap; records of uncommitted
            source are left out.
        out: Folder, as ``results_dir`` in ``asv.conf.json``.
        catalogue: Workloads, for the defaults of their axes.

    Raises:
        StorageError: The folder cannot be read or written.
    """
    failed = untraceable = count = 0
    groups: dict[_Group, list[Record]] = defaultdict(list)
    for record in records:
        git = record.git
        if record.status != "ok":
            failed += 1
        elif not git.sha or git.dirty is not False:
            untraceable += 1
        else:
            environment = selectors.of_record(record) | {"python": _python(record)}
            groups[git.sha, record.host, tuple(environment.items())].append(record)
    files: list[Path] = []
    errors: list[StorageError] = []
    try:
        for group in groups.values():
            try:
                group_figures = figures(group, catalogue)
                files.append(_write_results(group[-1], group_figures, out))
            except StorageError as error:
                errors.append(error)
            except _MALFORMED as error:
                errors.append(_export_error(group[-1], error))
            else:
                count += sum(map(len, group_figures.values()))
        complete(out)
    except OSError as error:
        raise StorageError(f"{error.filename or out}: {error.strerror}") from None
    return Exported(tuple(files), count, failed, untraceable, tuple(errors))


def _export_error(record: Record, error: Exception) -> StorageError:
    """Return the error of the file that holds a record's figures."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return StorageError(
        f"records of commit {str(record.git.sha)[:8]} on {record.host.cpu}, "
        f"run {record.run_id}: cannot be exported: {reason:.300}"
    )


def complete(out: Path) -> None:
    """List every benchmark and parameter of the result files in ``benchmarks.json``.

    asv shows what that file lists, and each ``asv run`` lists its own sweep alone.

    Raises:
        StorageError: a file cannot be read or written.
    """
    listed = _read(out / BENCHMARKS)
    listed.pop("version", None)
    values: dict[str, list[set[str]]] = {}
    for path in sorted(out.glob("*/*.json")):
        if path.name == MACHINE:
            continue
        with _form_of(path):
            for name, columns in _rows(_read(path)):
                if tracked_by(name) and columns.get("version") == VERSION:
                    union = values.setdefault(name, [set() for _ in PARAMETERS])
                    for choices, more in zip(union, columns["params"], strict=True):
                        choices.update(_texts(more))
    for name, columns_of in values.items():
        with _form_of(out / BENCHMARKS):
            entry = dict(listed.get(name, {}))
            if entry.get("version") == VERSION and entry.get("param_names") == list(PARAMETERS):
                for choices, more in zip(columns_of, entry["params"], strict=True):
                    choices.update(_texts(more))
        listed[name] = (
            _described(name) | entry | {"version": VERSION, "params": _ordered(columns_of)}
        )
    write_json(out / BENCHMARKS, listed | {"version": _FORM})


def make_strict(out: Path) -> None:
    """Replace the NaN that asv writes for skipped benchmarks by null, which it reads as well.

    Raises:
        StorageError: a file cannot be read or written.
    """
    for path in out.glob("*/*.json"):
        if b"NaN" in path.read_bytes():
            write_json(path, _read(path))


def _described(name: str) -> dict[str, Any]:
    """Return a benchmark as asv's discovery describes it, without its parameters."""
    tracked = tracked_by(name)
    assert tracked
    return {
        "name": name,
        "type": "track",
        "unit": tracked.unit,
        "param_names": list(PARAMETERS),
        "code": description(name.split(".")[1], tracked),
        "timeout": 60.0,
    }


def _write_results(record: Record, figures_by_name: Figures, out: Path) -> Path:
    """Add figures to the file of a record's machine, commit and selectors; return its path."""
    selected = selectors.of_record(record)
    machine = _machine(record, out)
    sha = str(record.git.sha)
    text = json.dumps([selected, _python(record)], sort_keys=True)
    environment = f"foldperf-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    path = out / machine["machine"] / f"{sha[:8]}-{environment}.json"
    results = {}
    with _form_of(path):
        known_file = _read(path)
        if known_file.get("commit_hash", sha) != sha:
            raise StorageError(
                f"{path}: of commit {known_file['commit_hash']}, not {sha}; remove it"
            )
        before = dict(_rows(known_file))
        for name, cells in figures_by_name.items():
            row: Row = {tuple(map(repr, case)): value for case, value in cells.items()}
            earlier = before.get(name, {})
            if earlier.get("version") == VERSION:
                row = _decoded(earlier.get("result"), earlier["params"]) | row
            results[name] = [*_encoded(row), VERSION]
    unchanged = {name: [old.get(column) for column in _COLUMNS] for name, old in before.items()}
    moment = record.git.commit_time or record.started_at
    write_json(
        path,
        {
            "version": _FORM,
            "commit_hash": sha,
            "date": int(datetime.fromisoformat(moment).timestamp() * 1000),
            "env_name": environment,
            "env_vars": {},
            "python": _python(record),
            "requirements": {},
            "params": {field: machine[field] for field in _MACHINE_FIELDS if field in machine}
            | {"python": _python(record)}
            | selected,
            "result_columns": _COLUMNS,
            "results": unchanged | results,
            "durations": {},
        },
    )
    return path


def _machine(record: Record, out: Path) -> dict[str, Any]:
    """Return the machine of a record as asv described it, else as described here."""
    host = record.host
    for path in sorted(out.glob(f"*/{MACHINE}")):
        described_before = _read(path)
        hashed = hashlib.sha256(str(described_before.get("machine")).encode()).hexdigest()[:16]
        # The name alone does not identify a machine: many are called localhost.
        if hashed == host.hostname_hash and described_before.get("cpu") == host.cpu:
            return described_before
    slug = re.sub(r"[^a-z0-9]+", "-", host.cpu.lower()).strip("-")[:_LONGEST_SLUG]
    described = {
        "version": _MACHINE_FORM,
        "machine": f"{slug}-{host.cores}-{host.hostname_hash[:8]}",
        "os": host.os,
        "arch": "",
        "cpu": host.cpu,
        "num_cpu": str(host.cores),
        "ram": str(host.memory_bytes),
    }
    path = out / str(described["machine"]) / MACHINE
    if not path.exists():
        write_json(path, described)
    return _read(path)


def _python(record: Record) -> str:
    """Return the Python version as asv has it, without its last part."""
    return ".".join((record.software["python"] or "").split(".")[:2])


def _encoded(row: Row) -> tuple[list[float | None], list[list[str]]]:
    """Return values in the order of the product of the parameters; None is no value."""
    params = _ordered([set(values) for values in zip(*row, strict=True)])
    return [row.get(case) for case in product(*params)], params


def _decoded(result: list[float | None] | None, params: list[list[str]]) -> Row:
    places = list(product(*map(_texts, params)))
    return dict(zip(places, result or [None] * len(places), strict=True))


def _texts(values: Iterable[Any]) -> list[str]:
    """Return the values of a parameter of a file.

    Raises:
        TypeError: one is not text.
    """
    texts = list(values)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a parameter has a value that is not text")
    return texts


def _ordered(params: Iterable[Iterable[str]]) -> list[list[str]]:
    """Return the values of each parameter in order: numbers by size, texts by letter."""

    def rank(text: str) -> tuple[float, str]:
        try:
            return float(text), text
        except ValueError:
            return 0.0, text

    return [sorted(values, key=rank) for values in params]


def _rows(file: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the benchmarks of a result file with columns by name; trailing ones may be absent."""
    for name, row in file.get("results", {}).items():
        yield name, dict(zip(file["result_columns"], row, strict=False))


@contextmanager
def _form_of(path: Path) -> Iterator[None]:
    """Turn what a file of another form raises inside the block into an error that names it.

    Raises:
        StorageError: the file is not of the form that it should be.
    """
    try:
        yield
    except _MALFORMED as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise StorageError(f"{path}: not of asv's form: {reason:.300}; remove it") from None


def _read(path: Path) -> dict[str, Any]:
    """Return a file of asv; empty if there is none. The NaN of skipped benchmarks is null.

    Raises:
        StorageError: it is not of the form that it should be.
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path}: not JSON: {error}; remove it") from None
    if not isinstance(content, dict):
        raise StorageError(f"{path}: not a file of asv; remove it")
    return content
