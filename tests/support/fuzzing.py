"""Feeding damaged files to everything that reads one, in a process that is watched."""

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
from refsys.data.formats.msa import read_alignment
from refsys.data.prepare.entries import Sources, prepare
from refsys.data.prepare.homology import searched
from refsys.data.prepare.similarity import relate
from refsys.data.store.store import Store
from refsys.errors import RefsysError, UnexpectedError
from refsys.ops.tuning import TuningWarning
from support.binary_cif import as_binary
from support.mutations import FOREIGN, mutated, mutated_json
from support.own_json import Reader, other_files, record_files

# One takes a second at most, on a machine of its own: after so long it hangs.
LONGEST_S = 60.0
MOST_BYTES = 2 * 2**30
# Beyond it an allocation fails at once, so that the machine lives to tell.
_ADDRESS_SPACE = 16 * 2**30
# What readers of damaged files may raise.
EXPECTED = (RefsysError, BenchError, AnalysisError, TuningWarning)
_ALIGNMENT_ROWS = 200
_READ = ("atom_site", "entity", "entity_poly", "entity_poly_seq", "struct_asym")
_QUERY = "MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQFEVV"


@dataclass(frozen=True)
class Target:
    """A file that is damaged, and what reads it.

    Attributes:
        name: Of the format.
        content: Of the sound file.
        suffix: Of its name.
        read: Reads a path; its errors are those that the project raises on purpose.
        wrap: What is done to the content after the damage.
        damage: Content and the number of the input to damaged content.
    """

    name: str
    content: bytes
    suffix: str
    read: Callable[[Path], object]
    wrap: Callable[[bytes], bytes] = bytes
    damage: Callable[[bytes, int], bytes] = mutated


@dataclass
class Outcome:
    """What became of all inputs.

    Attributes:
        ended: How many ended in a value and in an error, by target.
        faults: What must not be: (number of the input, target, what happened).
        slowest_s: Longest time of an input.
        largest_bytes: Most memory that the process took while it read one, beyond what it had.
    """

    ended: Counter = field(default_factory=Counter)
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    largest_bytes: int = 0


def targets(sources, folder: Path) -> list[list[Target]]:
    """Every kind of file that is read, out of the fetched set; of a record, each of its files.

    Args:
        sources: Fetched structures by entry.
        folder: Where records are made.
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
        _relate(store)
        return batch(store, done.entry)

    made = [
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
        Target("A3M", a3m, ".a3m", read_alignment),
        Target("Stockholm", stockholm, ".sto", read_alignment),
        Target("Parquet", _as_parquet(a3m), ".pqt", read_alignment),
        Target("FASTA", a3m.replace(b"-", b""), ".fasta", lambda path: searched(_QUERY, path)),
    ]
    stored = _record_targets(sources, folder)
    return [
        *([target] for target in made),
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


def _relate(store: Store) -> None:
    """Relates all entries; what goes wrong with one that nobody foresaw is a fault."""
    for error in relate(store).errors:
        if isinstance(error, UnexpectedError):
            raise AssertionError(error.details)
        raise error


def batch(store: Store, entry: str) -> object:
    """A batch of an entry, its records verified as training does."""
    example = store.open(entry)
    example.verify()
    spec = ExampleSpec(tokens=16, alignment_rows=4, whole=True, templates=1)
    return example_batch(example, spec, 0)


def _as_parquet(a3m: bytes) -> bytes:
    """The same rows in Parquet."""
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
    """The category of atoms alone, so that damage falls on what is decoded."""
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
        others = [c for c in block["categories"] if c["name"] != "_atom_site"]
        return msgpack.packb(content | {"dataBlocks": [block | {"categories": [*others, atoms]}]})

    return wrap


def _foreign_strings(binary: bytes, seed: int) -> bytes:
    """The file with letters of a column of strings replaced by what is no ASCII."""
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
    """Each file of a prepared entry, damaged where it lies."""
    sound, store = Store(folder / "sound"), Store(folder / "altered")
    entry = prepare(sound, Sources(structure=sources["1yjp"].structure.cached)).entry
    relate(sound)
    shutil.copytree(sound.root, store.root)

    def read(where: Path) -> Callable[[Path], object]:
        def run(path: Path) -> object:
            shutil.copy(path, store.root / where)
            try:
                _relate(store)
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
    wanted: list[list[Target]],
    inputs: range,
    folder: Path,
    done: Callable[[int], None] = lambda number: None,
) -> Outcome:
    """Feeds the inputs of these numbers, each in turn a damaged file of another kind."""
    outcome, context = Outcome(), get_context("fork")
    number = inputs.start
    while number < inputs.stop:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_feed, args=(wanted, range(number, inputs.stop), folder, theirs)
        )
        process.start()
        theirs.close()
        while number < inputs.stop:
            target = _target(wanted, number).name
            try:
                if not ours.poll(LONGEST_S):
                    outcome.faults.append((number, target, f"no end within {LONGEST_S:.0f} s"))
                    break
                kind, message, seconds, nbytes = ours.recv()
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


def _target(wanted: list[list[Target]], number: int) -> Target:
    turn, kind = divmod(number, len(wanted))
    return wanted[kind][turn % len(wanted[kind])]


def _feed(wanted, numbers, folder, results) -> None:
    """In a process of its own: reads every input and says how it ended."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    # What a library prints of a damaged file is nobody's.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for number in numbers:
        target = _target(wanted, number)
        path = folder / f"damaged{target.suffix}"
        path.write_bytes(target.wrap(target.damage(target.content, number)))
        # The high-water mark of the process begins anew.
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
        # The parent's memory, which a fork begins with, is not the reader's.
        results.send((kind, message, seconds, _high_water_mark() - before))


def _high_water_mark() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
