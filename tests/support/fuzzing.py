"""Fuzzer of file readers: damaged files, each read in a supervised process."""

import gzip
import os
import random
import resource
import shutil
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import msgpack
import pyarrow as pa
from pyarrow import parquet

from analysis.errors import AnalysisError
from bench.errors import BenchError
from refsys.data.batches.construction import ExampleSpec, example_batch
from refsys.data.formats.msa import read_msa
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.prepare.homology import search_msa
from refsys.data.prepare.similarity import find_templates_and_clusters
from refsys.data.store.store import Store
from refsys.errors import RefsysError, UnexpectedError
from refsys.ops.tuning import TuningWarning
from support.binary_cif import as_binary
from support.mutations import FOREIGN, mutated, mutated_json
from support.own_json import Reader, other_files, record_files

# Time limit of an input, which takes a second at most on an idle machine: a longer one hangs.
LONGEST_S = 60.0
MOST_BYTES = 2 * 2**30
# Larger allocations fail at once, so that the machine does not run out of memory.
_ADDRESS_SPACE = 16 * 2**30
# Exceptions that readers of damaged files may raise.
EXPECTED = (RefsysError, BenchError, AnalysisError, TuningWarning)
_ALIGNMENT_ROWS = 200
_READ = ("atom_site", "entity", "entity_poly", "entity_poly_seq", "struct_asym")
_QUERY = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV"


@dataclass(frozen=True)
class Target:
    """A file to damage, and its reader.

    Attributes:
        name: Name of the format.
        content: Content of the intact file.
        suffix: Suffix of the file's name.
        read: Reader of a path; its errors must be those that the project raises on purpose.
        wrap: Function that is applied to the damaged content.
        damage: Function from the content and the number of the input to damaged content.
    """

    name: str
    content: bytes
    suffix: str
    read: Callable[[Path], object]
    wrap: Callable[[bytes], bytes] = bytes
    damage: Callable[[bytes, int], bytes] = mutated


@dataclass
class Outcome:
    """Outcome of all inputs.

    Attributes:
        ended: Number of inputs that ended in a value or in an error, by target and kind.
        faults: Faults of readers: (number of the input, target, description).
        slowest_s: Longest time of an input, seconds.
        largest_bytes: Largest growth of the process's memory during an input, bytes.
    """

    ended: Counter = field(default_factory=Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    largest_bytes: int = 0


def targets(sources, folder: Path) -> list[list[Target]]:
    """Return targets of every kind of file that is read; of a record, all of its files.

    Args:
        sources: Fetched structures by entry.
        folder: Folder for the stores of records.
    """
    text = gzip.decompress(sources["1yjp"].structure.cached.read_bytes())
    binary = gzip.decompress(sources["3jqh"].structure.cached.read_bytes())
    rows = sources["5vht"].alignments["A"].cached.read_bytes().split(b">")
    a3m = b">".join(rows[:_ALIGNMENT_ROWS])
    stockholm = sources["2q2k"].alignments["B"].cached.read_bytes()

    def structure(path: Path) -> object:
        store = Store(folder / "scratch")
        shutil.rmtree(store.root, ignore_errors=True)
        done = prepare(store, Sources(structure=path))
        _search(store)
        return batch(store, done.entry)

    readers = [
        Target("mmCIF", text, ".cif", structure),
        Target("mmCIF, compressed", text, ".cif.gz", structure, gzip.compress),
        Target("BinaryCIF", binary, ".bcif", structure),
        Target("BinaryCIF, atoms", _atoms_of(binary), ".bcif", structure, _with_atoms(binary)),
        Target(
            "BinaryCIF, strings",
            as_binary(text.decode()),
            ".bcif",
            structure,
            damage=_foreign_strings,
        ),
        Target("gzip", gzip.compress(text), ".cif.gz", structure),
        Target("A3M", a3m, ".a3m", read_msa),
        Target("Stockholm", stockholm, ".sto", read_msa),
        Target("Parquet", _as_parquet(a3m), ".pqt", read_msa),
        Target("FASTA", a3m.replace(b"-", b""), ".fasta", lambda path: search_msa(_QUERY, path)),
    ]
    stored = _record_targets(sources, folder)
    return [
        *([target] for target in readers),
        stored,
        [
            Target("JSON of the store", target.content, "", target.read, damage=mutated_json)
            for target in stored
            if target.content.startswith(b"{")
        ],
        _json_targets("records", record_files(), ".jsonl"),
        _json_targets("other JSON", other_files(), ".json"),
    ]


def _json_targets(name: str, files: list[tuple[bytes, Reader]], suffix: str) -> list[Target]:
    return [Target(name, content, suffix, read, damage=mutated_json) for content, read in files]


def _search(store: Store) -> None:
    """Search for templates and clusters; an unexpected error of an entry is a fault."""
    for error in find_templates_and_clusters(store).errors:
        if isinstance(error, UnexpectedError):
            raise AssertionError(error.details)
        raise error


def batch(store: Store, entry: str) -> object:
    """Return a batch of an entry after verifying its records, as training does."""
    example = store.open(entry)
    example.verify()
    spec = ExampleSpec(tokens=16, alignment_rows=4, whole=True, templates=1)
    return example_batch(example, spec, 0)


def _as_parquet(a3m: bytes) -> bytes:
    """Return the same rows in Parquet."""
    headers, rows = zip(*(row.split(b"\n", 1) for row in a3m.split(b">")[1:]), strict=True)
    columns = {
        "sequence": [row.replace(b"\n", b"").decode() for row in rows],
        "pairing_key": [""] * len(rows),
        "comment": [header.decode() for header in headers],
    }
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def _atoms_of(binary: bytes) -> bytes:
    """Return the category of atoms alone, so that the damage hits encoded columns."""
    (block,) = msgpack.unpackb(binary)["dataBlocks"]
    (atoms,) = (c for c in block["categories"] if c["name"] == "_atom_site")
    return msgpack.packb(atoms)


def _with_atoms(binary: bytes) -> Callable[[bytes], bytes]:
    content = msgpack.unpackb(binary)

    def wrap(damaged: bytes) -> bytes:
        try:
            atoms = msgpack.unpackb(damaged, strict_map_key=False)
        except Exception:  # of several unrelated classes
            return damaged
        (block,) = content["dataBlocks"]
        categories = [c for c in block["categories"] if c["name"] != "_atom_site"]
        return msgpack.packb(
            content | {"dataBlocks": [block | {"categories": [*categories, atoms]}]}
        )

    return wrap


def _foreign_strings(binary: bytes, seed: int) -> bytes:
    """Replace letters of string columns by non-ASCII ones."""
    draw = random.Random(seed)
    content = msgpack.unpackb(binary)
    (block,) = content["dataBlocks"]
    encodings = [
        encoding
        for category in block["categories"]
        if category["name"].lstrip("_") in _READ
        for column in category["columns"]
        for encoding in column["data"]["encoding"]
        if encoding.get("stringData")
    ]
    for encoding in draw.sample(encodings, draw.choice((1, 1, 2, 5))):
        letters = list(encoding["stringData"])
        for index in draw.sample(range(len(letters)), min(len(letters), draw.choice((1, 3)))):
            letters[index] = draw.choice([text for text in FOREIGN if len(text) == 1])
        encoding["stringData"] = "".join(letters)
    return msgpack.packb(content)


def _record_targets(sources, folder: Path) -> list[Target]:
    """Return a target for each file of a prepared entry, read in place in its store."""
    sound, store = Store(folder / "sound"), Store(folder / "altered")
    entry = prepare(sound, Sources(structure=sources["1yjp"].structure.cached)).entry
    find_templates_and_clusters(sound)
    shutil.copytree(sound.root, store.root)

    def read(where: Path) -> Callable[[Path], object]:
        def run(path: Path) -> object:
            shutil.copy(path, store.root / where)
            try:
                _search(store)
                return batch(store, entry)
            finally:
                shutil.copy(sound.root / where, store.root / where)

        return run

    files = sorted(
        path.relative_to(sound.root)
        for path in sound.root.rglob("*")
        if path.is_file() and path.name != "lock"
    )
    return [Target("record", (sound.root / where).read_bytes(), "", read(where)) for where in files]


def fuzz(
    kinds: list[list[Target]],
    inputs: range,
    folder: Path,
    done: Callable[[int], None] = lambda number: None,
) -> Outcome:
    """Read the inputs of these numbers, damaged files of the kinds in turn, in a process.

    Args:
        kinds: Targets by kind of file.
        inputs: Numbers of the inputs.
        folder: Folder for the damaged files.
        done: Callback with the number of each input that was read.
    """
    outcome, context = Outcome(), get_context("fork")
    number = inputs.start
    while number < inputs.stop:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_feed, args=(kinds, range(number, inputs.stop), folder, sender)
        )
        process.start()
        sender.close()
        while number < inputs.stop:
            target = _target(kinds, number).name
            try:
                if not receiver.poll(LONGEST_S):
                    outcome.faults.append((number, target, f"no end within {LONGEST_S:.0f} s"))
                    break
                kind, message, seconds, nbytes = receiver.recv()
            except EOFError:
                process.join()
                outcome.faults.append((number, target, f"died with status {process.exitcode}"))
                break
            outcome.ended[target, kind] += 1
            outcome.slowest_s = max(outcome.slowest_s, seconds)
            outcome.largest_bytes = max(outcome.largest_bytes, nbytes)
            if kind == "fault":
                outcome.faults.append((number, target, message))
            elif nbytes > MOST_BYTES:
                outcome.faults.append((number, target, f"took {nbytes >> 20} MiB"))
            number += 1
            done(number)
        else:
            process.join()
            break
        process.kill()
        process.join()
        number += 1
    return outcome


def _target(kinds: list[list[Target]], number: int) -> Target:
    turn, kind = divmod(number, len(kinds))
    return kinds[kind][turn % len(kinds[kind])]


def _feed(kinds, numbers, folder, results) -> None:
    """Read every input and send its outcome; runs in a separate process."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    # Discard the output of libraries.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for number in numbers:
        target = _target(kinds, number)
        path = folder / f"damaged{target.suffix}"
        path.write_bytes(target.wrap(target.damage(target.content, number)))
        # Reset the high-water mark of the process.
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = _high_water_mark()
        start = perf_counter()
        kind, message = "value", ""
        try:
            target.read(path)
        except EXPECTED as error:
            message = str(error)
            kind = "error" if "\n" not in message else "fault"
        except BaseException:
            kind, message = "fault", traceback.format_exc()
        seconds = perf_counter() - start
        # A fork inherits the parent's memory, which does not count.
        results.send((kind, message, seconds, _high_water_mark() - before))


def _high_water_mark() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
