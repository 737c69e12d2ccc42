"""Preparing: from files to the records of an entry, done once and ahead of time."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from refsys.data.columns import Columns, record_name
from refsys.data.store import Record, Store, check_entry
from refsys.errors import DataError

_HERE = Path(__file__).parent
# The modules that decide what a record of each kind holds: their text is part of its name.
_MAKERS = {
    "structure": (
        *("assembly", "atom_site", "automorphisms", "cif_tables", "components", "mmcif"),
        *("preparation", "residue_layout", "tokens", "vocabulary"),
    ),
    "alignment": ("alignment", "realign", "species", "vocabulary"),
    "pairing": ("pairing",),
    "templates": ("templates",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The files that an entry is made from.

    Attributes:
        structure: An mmCIF file.
        assembly: Name of a biological assembly, None for the asymmetric unit.
        alignments: Alignment file by chain name (label_asym_id). Protein chains without one, and
            whose sequence no other chain brings one for, get their sequence alone.
        realign: Whether an alignment may be a close homolog's, to be laid onto the chain.
        templates: By chain name, mmCIF files and the names of the chains in them.
    """

    structure: Path
    assembly: str | None = None
    alignments: Mapping[str, Path] = field(default_factory=dict)
    realign: bool = False
    templates: Mapping[str, Sequence[tuple[Path, str]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What preparing an entry did.

    Attributes:
        entry: Its name.
        tokens: Its size.
        built: Records that were made; 0 if all were there.
        dropped: Modelled atoms that do not belong to their residue and were left out.
        replaced: The other source file that the entry was made from before.
    """

    entry: str
    tokens: int
    built: int
    dropped: int = 0
    replaced: str | None = None


def prepare(store: Store, sources: Sources) -> Prepared:
    """Builds the records of one structure, unless intact ones are there already.

    Raises:
        DataError: a file cannot be used, an alignment or a template names a chain that is not a
            protein, or the store cannot be written.
    """
    name, built = _structure(store, sources.structure, sources.assembly)
    structure = store.record("structure", name)
    entry: str = structure.facts["entry"]
    alignments, new = _alignments(store, sources, structure)
    built += new
    pairing, new = _pairing(store, alignments)
    built += new
    templates, new = _templates(store, sources, structure)
    built += new
    digest = _digest(sources.structure)
    before = store.source(entry)
    store.write_manifest(
        entry,
        {
            "structure": name,
            "alignments": alignments,
            "templates": templates,
            "pairing": pairing,
            "source": sources.structure.name,
            "source_sha256": digest,
        },
    )
    replaced = before[0] if before and before[1] != digest else None
    tokens, dropped = len(structure["token_residue_type"]), int(structure.facts["dropped_atoms"])
    return Prepared(entry, tokens, built, dropped, replaced)


def _structure(store: Store, path: Path, assembly: str | None) -> tuple[str, int]:
    """Name of the structure record, and how many were built."""
    from refsys.data.components import dictionary_version

    sources = {
        "file": _digest(path),
        "assembly": assembly,
        "components": dictionary_version(),
        "makers": _makers_digest("structure"),
    }
    name = record_name("structure", sources)
    return name, store.ensure("structure", name, lambda: _structure_record(path, assembly))


def _structure_record(path: Path, assembly: str | None) -> Record:
    from refsys.data.assembly import assembled
    from refsys.data.mmcif import read_structure
    from refsys.data.tokens import chain_sequence, dropped_atoms, structure_columns

    structure = read_structure(path)
    entry = structure.entry
    if assembly is not None:
        structure = assembled(structure, path, assembly)
        entry = f"{entry}-assembly{assembly}"
    entry = check_entry(path, entry)
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
    return columns, {
        "entry": entry,
        "chains": chains,
        "resolution": structure.resolution,
        "dropped_atoms": dropped_atoms(structure, columns),
    }


def _proteins(structure: Columns) -> dict[str, str]:
    """The sequence of each protein chain, by its name."""
    chains: list[dict[str, str]] = structure.facts["chains"]
    return {chain["name"]: chain["sequence"] for chain in chains if chain["kind"] == "protein"}


def _check_chains(
    sources: Sources, given: Mapping[str, Any], structure: Columns, what: str
) -> None:
    proteins = _proteins(structure)
    if unknown := sorted(set(given) - set(proteins)):
        raise DataError(
            f"{sources.structure}: {what} is given for {', '.join(unknown)}, but its protein "
            f"chains are {', '.join(proteins) or 'none'}"
        )


def _alignments(store: Store, sources: Sources, structure: Columns) -> tuple[dict[str, str], int]:
    """Names of the alignment records by chain number, and how many were built."""
    _check_chains(sources, sources.alignments, structure, "an alignment")
    proteins = _proteins(structure)
    by_sequence: dict[str, Path] = {}
    for given, file in sources.alignments.items():
        by_sequence.setdefault(proteins[given], file)
    records, built = {}, 0
    for number, chain in enumerate(structure.facts["chains"]):
        if chain["name"] in proteins:
            sequence = proteins[chain["name"]]
            own = sources.alignments.get(chain["name"], by_sequence.get(sequence))
            records[str(number)], new = _alignment(store, sequence, own, sources.realign)
            built += new
    return records, built


def _alignment(store: Store, sequence: str, file: Path | None, realign: bool) -> tuple[str, int]:
    from refsys.data.alignment import query_only, read_alignment

    sources = {
        "sequence": sequence,
        "file": _digest(file) if file else None,
        "realign": realign,
        "makers": _makers_digest("alignment"),
    }
    name = record_name("alignment", sources)

    def build() -> Record:
        columns = read_alignment(file, sequence, realign=realign) if file else query_only(sequence)
        facts = {"sequence": sequence, "source": file.name if file else "query only"}
        return columns, facts | {"rows": len(columns["codes"])}

    return name, store.ensure("alignment", name, build)


def _pairing(store: Store, alignments: Mapping[str, str]) -> tuple[str | None, int]:
    """Name of the record that pairs the distinct alignments, None for fewer than two."""
    from refsys.data.pairing import paired_rows

    distinct = list(dict.fromkeys(alignments.values()))
    if len(distinct) < 2:
        return None, 0
    name = record_name("pairing", {"alignments": distinct, "makers": _makers_digest("pairing")})

    def build() -> Record:
        records = [store.record("alignment", alignment) for alignment in distinct]
        return {"rows": paired_rows(records)}, {"alignments": distinct}

    return name, store.ensure("pairing", name, build)


def _templates(store: Store, sources: Sources, structure: Columns) -> tuple[dict[str, str], int]:
    """Names of the template records by chain number, and how many were built."""
    from refsys.data.templates import template_columns

    _check_chains(sources, sources.templates, structure, "a template")
    proteins = _proteins(structure)
    by_sequence: dict[str, Sequence[tuple[Path, str]]] = {}
    for given, files in sources.templates.items():
        by_sequence.setdefault(proteins[given], files)
    records, built = {}, 0
    for number, chain in enumerate(structure.facts["chains"]):
        templates = sources.templates.get(chain["name"], by_sequence.get(chain["sequence"]))
        if not templates:
            continue
        parts = []
        for path, other in templates:
            template, new = _structure(store, path, None)
            parts.append((template, other))
            built += new
        keys = {
            "sequence": chain["sequence"],
            "templates": parts,
            "makers": _makers_digest("templates"),
        }
        name = records[str(number)] = record_name("templates", keys)

        def build(sequence: str = chain["sequence"], parts: Any = tuple(parts)) -> Record:
            opened = [(store.record("structure", one), other) for one, other in parts]
            sources = [f"{record.facts['entry']} {other}" for record, other in opened]
            return template_columns(sequence, opened), {"templates": sources}

        built += store.ensure("templates", name, build)
    return records, built


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
