"""Preparing: from files to the records of an entry, done once and ahead of time."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from refsys.data.store.columns import Columns, record_name
from refsys.data.store.entry_name import file_entry
from refsys.data.store.store import Record, Store
from refsys.errors import DataError, one_line

_DATA = Path(__file__).parents[1]
# The modules that decide what a record of each kind holds: their text is part of its name.
_MAKERS: dict[str, dict[str, tuple[str, ...]]] = {
    "structure": {
        "": ("grid", "vocabulary"),
        "formats": (
            *("atom_site", "binary_cif", "cif_tables", "components", "compressed", "connections"),
            *("entities", "file_kind", "implied_entities", "mmcif", "modelled_chains", "notes"),
            "polymers",
        ),
        "prepare": (
            *("assembly", "automorphisms", "chemistry_notes", "conformers", "entries"),
            *("interfaces", "residue_layout", "standardization", "structure_record", "tokens"),
        ),
        "store": ("columns", "entry_name"),
    },
    "alignment": {
        "": ("vocabulary",),
        "formats": ("a3m", "compressed", "file_kind", "msa", "realign", "species", "stockholm"),
        "prepare": ("homology",),
    },
    "pairing": {"prepare": ("msa_pairing",)},
    "hits": {"prepare": ("homology",)},
    "templates": {"prepare": ("templates",)},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """The files that an entry is made from.

    Attributes:
        structure: An mmCIF or BinaryCIF file.
        name: Of the entry. None takes that of the data block, or that of the file where the block's
            cannot name an entry.
        assembly: Name of a biological assembly, None for the asymmetric unit.
        alignments: Alignment file by chain name (label_asym_id). Protein chains without one, and
            whose sequence no other chain brings one for, get their sequence alone.
        realign: Whether an alignment may be a close homolog's, to be laid onto the chain.
        templates: By chain name, mmCIF files and the names of the chains in them.
        as_deposited: Whether selenomethionines and the names of arginines' nitrogens stay those of
            the file, see `refsys.data.prepare.standardization`.
        database: FASTA in which protein chains without an alignment are searched for; None leaves
            them with their sequence alone.
    """

    structure: Path
    name: str | None = None
    assembly: str | None = None
    alignments: Mapping[str, Path] = field(default_factory=dict)
    realign: bool = False
    templates: Mapping[str, Sequence[tuple[Path, str]]] = field(default_factory=dict)
    as_deposited: bool = False
    database: Path | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What preparing an entry did.

    Attributes:
        entry: Its name.
        tokens: Its size.
        built: Records that were made; 0 if all were there.
        dropped: Modelled atoms that do not belong to their residue and were left out.
        replaced: The other source file that the entry was made from before.
        repaired: What was wrong with each record that was there and had to be made again.
        identity: The file's own names where they are not the entry's: of its data block, and
            ``_entry.id``.
        notes: Sentences on what the files hold and the records do not.
    """

    entry: str
    tokens: int
    built: int
    dropped: int = 0
    replaced: str | None = None
    repaired: tuple[str, ...] = ()
    identity: str = ""
    notes: tuple[str, ...] = ()


def prepare(store: Store, sources: Sources) -> Prepared:
    """Build the records of one structure, unless intact ones are there already.

    Raises:
        DataError: a file cannot be used, an alignment or a template names a chain that is not a
            protein, or the store cannot be written.
    """
    maker = _EntryMaker(store, sources)
    name = maker.structure(sources.structure, sources.assembly, sources.name)
    structure = store.record("structure", name)
    entry: str = structure.facts["entry"]
    alignments = maker.alignments(structure)
    pairing = maker.pairing(alignments)
    templates = maker.templates(structure)
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
    return Prepared(
        entry=entry,
        tokens=len(structure["token_residue_type"]),
        built=maker.built,
        dropped=int(structure.facts["dropped_atoms"]),
        replaced=before[0] if before and before[1] != digest else None,
        repaired=tuple(maker.repaired),
        identity=_identity(structure.facts),
        notes=(*structure.facts["notes"], *_alignment_notes(store, alignments)),
    )


def _identity(facts: Mapping[str, Any]) -> str:
    """Return the names that a file has for itself, where they are not the entry's."""
    entry, assembly = facts["entry"], facts["assembly"]
    if assembly is not None:
        entry = entry.removesuffix(f"-assembly{assembly.lower()}")
    names = {"data block": facts["block"], "_entry.id": facts["entry_id"]}
    others = [
        f"{what} {name or '(without a name)'}"
        for what, name in names.items()
        if name.lower() != entry and (name or what == "data block")
    ]
    if len(others) == 2 and facts["block"] == facts["entry_id"]:
        others = others[:1]
    return one_line(", ".join(others))


def _alignment_notes(store: Store, alignments: Mapping[str, str]) -> list[str]:
    """Return the notes of the distinct alignments of an entry."""
    records = [store.record("alignment", name) for name in dict.fromkeys(alignments.values())]
    return list(dict.fromkeys(note for record in records for note in record.facts["notes"]))


class Maker:
    """Makes records and counts them.

    Attributes:
        built: How many had to be made.
        repaired: What was wrong with each that was there and had to be made again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.built = 0
        self.repaired: list[str] = []

    def record(self, kind: str, determined: Mapping[str, Any], build: Callable[[], Record]) -> str:
        """Name of the record that its sources and the code determine, made if need be.

        Raises:
            DataError: it cannot be built or written.
        """
        name = record_name(kind, {**determined, "makers": _makers_digest(kind)})
        made = self._store.ensure(kind, name, build)
        self.built += made.built
        self.repaired += [made.damage] if made.damage else []
        return name


class _EntryMaker(Maker):
    """Makes the records of one entry."""

    def __init__(self, store: Store, sources: Sources) -> None:
        super().__init__(store)
        self._sources = sources

    @cached_property
    def _database_digest(self) -> str | None:
        return _digest(self._sources.database) if self._sources.database else None

    def structure(self, path: Path, assembly: str | None, entry: str | None = None) -> str:
        """Name of the structure record.

        Args:
            path: The file.
            assembly: A biological assembly, None for the asymmetric unit.
            entry: The entry's name, None for that which the file gives.
        """
        from refsys.data.formats.components import dictionary_version
        from refsys.data.prepare.conformers import conformer_version

        determined = {
            "file": _digest(path),
            "entry": entry or {"by the file": file_entry(path)},
            "assembly": assembly,
            "as_deposited": self._sources.as_deposited,
            "components": dictionary_version(),
            "conformers": conformer_version(),
        }

        def build() -> Record:
            from refsys.data.prepare.structure_record import structure_record

            return structure_record(path, assembly, entry, as_deposited=self._sources.as_deposited)

        return self.record("structure", determined, build)

    def alignments(self, structure: Columns) -> dict[str, str]:
        """Names of the alignment records by chain number."""
        given = self._sources.alignments
        proteins = self._proteins(structure, given, "an alignment")
        by_sequence = _by_sequence(given, proteins)
        return {
            str(number): self._alignment(
                chain, given.get(chain["name"], by_sequence.get(chain["sequence"]))
            )
            for number, chain in enumerate(structure.facts["chains"])
            if chain["name"] in proteins
        }

    def pairing(self, alignments: Mapping[str, str]) -> str | None:
        """Name of the record that pairs the distinct alignments, None for fewer than two."""
        from refsys.data.prepare.msa_pairing import paired_rows

        distinct = list(dict.fromkeys(alignments.values()))
        if len(distinct) < 2:
            return None

        def build() -> Record:
            records = [self._store.record("alignment", alignment) for alignment in distinct]
            return {"rows": paired_rows(records)}, {"alignments": distinct}

        return self.record("pairing", {"alignments": distinct}, build)

    def templates(self, structure: Columns) -> dict[str, str]:
        """Names of the template records by chain number."""
        given = self._sources.templates
        by_sequence = _by_sequence(given, self._proteins(structure, given, "a template"))
        records = {}
        for number, chain in enumerate(structure.facts["chains"]):
            templates = given.get(chain["name"], by_sequence.get(chain["sequence"]))
            if templates:
                records[str(number)] = self._templates(chain["sequence"], templates)
        return records

    def _alignment(self, chain: Mapping[str, Any], file: Path | None) -> str:
        from refsys.data.formats.msa import Alignment, query_only, read_alignment_file

        sequence: str = chain["sequence"]
        alternatives = {int(index): letters for index, letters in chain["alternatives"].items()}
        realign, database = self._sources.realign, self._sources.database
        if not file and database:
            return self._searched(sequence, database)
        determined = {
            "sequence": sequence,
            "file": _digest(file) if file else None,
            "realign": realign,
            "alternatives": chain["alternatives"] if file else {},
        }

        def build() -> Record:
            alignment = (
                read_alignment_file(file, sequence, realign=realign, alternatives=alternatives)
                if file
                else Alignment(query_only(sequence), ())
            )
            return alignment.columns, {
                "sequence": sequence,
                "source": file.name if file else "query only",
                "rows": len(alignment.columns["codes"]),
                "notes": list(alignment.notes),
            }

        return self.record("alignment", determined, build)

    def _searched(self, sequence: str, database: Path) -> str:
        from refsys.data.prepare.homology import search_version, searched

        determined = {
            "sequence": sequence,
            "database": self._database_digest,
            "search": search_version(),
        }

        def build() -> Record:
            columns = searched(sequence, database)
            facts = {"sequence": sequence, "source": database.name}
            return columns, facts | {"rows": len(columns["codes"]), "notes": []}

        return self.record("alignment", determined, build)

    def _templates(self, sequence: str, templates: Sequence[tuple[Path, str]]) -> str:
        from refsys.data.prepare.templates import template_columns

        parts = [(self.structure(path, None), chain) for path, chain in templates]

        def build() -> Record:
            opened = [(self._store.record("structure", name), chain) for name, chain in parts]
            sources = [f"{record.facts['entry']} {chain}" for record, chain in opened]
            return template_columns(sequence, opened), {"templates": sources}

        return self.record("templates", {"sequence": sequence, "templates": parts}, build)

    def _proteins(self, structure: Columns, given: Mapping[str, Any], what: str) -> dict[str, str]:
        """The sequence of each protein chain by its name; what is given must be for these."""
        chains: list[dict[str, str]] = structure.facts["chains"]
        proteins = {c["name"]: c["sequence"] for c in chains if c["kind"] == "protein"}
        if unknown := sorted(set(given) - set(proteins)):
            raise DataError(
                f"{self._sources.structure}: {what} is given for {', '.join(unknown)}, but its "
                f"protein chains are {', '.join(proteins) or 'none'}"
            )
        return proteins


def _by_sequence(given: Mapping[str, Any], proteins: Mapping[str, str]) -> dict[str, Any]:
    """What is given for the first chain of each sequence."""
    found: dict[str, Any] = {}
    for chain, files in given.items():
        found.setdefault(proteins[chain], files)
    return found


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


@cache
def _makers_digest(kind: str) -> str:
    files = [
        _DATA / room / f"{module}.py"
        for room, modules in _MAKERS[kind].items()
        for module in modules
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
