"""Preparation of one entry: from its files to its records in the store."""

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
# Modules that determine the content of each kind of record: a hash of their text is in its name.
_SOURCE_MODULES: dict[str, dict[str, tuple[str, ...]]] = {
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
    """Input files and options of an entry.

    Attributes:
        structure: mmCIF or BinaryCIF file.
        name: Name of the entry. None uses that of the data block, or that of the file if the
            block's cannot name an entry.
        assembly: Name of a biological assembly, None for the asymmetric unit.
        alignments: MSA file by chain name (label_asym_id). Chains of the same sequence share it; a
            protein chain without one gets its sequence alone.
        realign: Whether to realign the MSA of a close homolog onto the chain.
        templates: mmCIF files and names of chains in them, by chain name.
        as_deposited: Whether to keep selenomethionines and the names of arginines' nitrogens, see
            `refsys.data.prepare.standardization`.
        database: FASTA file to search for protein chains without an MSA; None leaves them with
            their sequence alone.
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
    """Summary of the preparation of an entry.

    Attributes:
        entry: Name of the entry.
        tokens: Number of tokens.
        built: Number of records that were built; 0 if all were in the store.
        dropped: Modelled atoms that do not belong to their residue and were left out.
        replaced: Source file of an earlier entry of the same name, if it was another file.
        repaired: Damage of each record that had to be built again.
        identity: Names of the data block and of ``_entry.id`` that differ from the entry's.
        notes: Sentences on what the files have and the records lack.
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
    """Build the records of one structure that the store lacks, and write its manifest.

    Raises:
        DataError: a file cannot be used, an MSA or a template names a chain that is not a protein,
            or the store cannot be written.
    """
    builder = _EntryBuilder(store, sources)
    name = builder.structure(sources.structure, sources.assembly, sources.name)
    structure = store.record("structure", name)
    entry: str = structure.facts["entry"]
    alignments = builder.alignments(structure)
    pairing = builder.pairing(alignments)
    templates = builder.templates(structure)
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
        built=builder.built,
        dropped=int(structure.facts["dropped_atoms"]),
        replaced=before[0] if before and before[1] != digest else None,
        repaired=tuple(builder.repaired),
        identity=_identity(structure.facts),
        notes=(*structure.facts["notes"], *_msa_notes(store, alignments)),
    )


def _identity(facts: Mapping[str, Any]) -> str:
    """Return the names inside a file that differ from the entry's, as text."""
    entry, assembly = facts["entry"], facts["assembly"]
    if assembly is not None:
        entry = entry.removesuffix(f"-assembly{assembly.lower()}")
    name_of = {"data block": facts["block"], "_entry.id": facts["entry_id"]}
    names = [
        f"{what} {name or '(without a name)'}"
        for what, name in name_of.items()
        if name.lower() != entry and (name or what == "data block")
    ]
    if len(names) == 2 and facts["block"] == facts["entry_id"]:
        names = names[:1]
    return one_line(", ".join(names))


def _msa_notes(store: Store, alignments: Mapping[str, str]) -> list[str]:
    """Return the notes of the distinct MSAs of an entry."""
    records = [store.record("alignment", name) for name in dict.fromkeys(alignments.values())]
    return list(dict.fromkeys(note for record in records for note in record.facts["notes"]))


class RecordBuilder:
    """Builder of the records that a store lacks.

    Attributes:
        built: Number of records built so far.
        repaired: Damage of each record that had to be built again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.built = 0
        self.repaired: list[str] = []

    def record(self, kind: str, determined: Mapping[str, Any], build: Callable[[], Record]) -> str:
        """Build a record unless the store has it, and return its name.

        Args:
            kind: Kind of the record.
            determined: JSON value of everything that determines the record, except the code.
            build: Function that returns the record.

        Raises:
            DataError: the record cannot be built or written.
        """
        name = record_name(kind, {**determined, "makers": _sources_digest(kind)})
        result = self._store.ensure(kind, name, build)
        self.built += result.built
        self.repaired += [result.damage] if result.damage else []
        return name


class _EntryBuilder(RecordBuilder):
    """Builder of the records of one entry."""

    def __init__(self, store: Store, sources: Sources) -> None:
        super().__init__(store)
        self._sources = sources

    @cached_property
    def _database_digest(self) -> str | None:
        return _digest(self._sources.database) if self._sources.database else None

    def structure(self, path: Path, assembly: str | None, entry: str | None = None) -> str:
        """Build the structure record and return its name.

        Args:
            path: The mmCIF or BinaryCIF file.
            assembly: Name of a biological assembly, None for the asymmetric unit.
            entry: Name of the entry, None for the name in the file.
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
        """Build the MSA records and return their names by chain number."""
        files = self._sources.alignments
        proteins = self._proteins(structure, files, "an MSA")
        by_sequence = _by_sequence(files, proteins)
        return {
            str(number): self._msa(
                chain, files.get(chain["name"], by_sequence.get(chain["sequence"]))
            )
            for number, chain in enumerate(structure.facts["chains"])
            if chain["name"] in proteins
        }

    def pairing(self, alignments: Mapping[str, str]) -> str | None:
        """Build the record of paired MSA rows and return its name, None for fewer than two MSAs."""
        from refsys.data.prepare.msa_pairing import paired_rows

        distinct = list(dict.fromkeys(alignments.values()))
        if len(distinct) < 2:
            return None

        def build() -> Record:
            records = [self._store.record("alignment", alignment) for alignment in distinct]
            return {"rows": paired_rows(records)}, {"alignments": distinct}

        return self.record("pairing", {"alignments": distinct}, build)

    def templates(self, structure: Columns) -> dict[str, str]:
        """Build the template records and return their names by chain number."""
        files = self._sources.templates
        by_sequence = _by_sequence(files, self._proteins(structure, files, "a template"))
        records = {}
        for number, chain in enumerate(structure.facts["chains"]):
            templates = files.get(chain["name"], by_sequence.get(chain["sequence"]))
            if templates:
                records[str(number)] = self._templates(chain["sequence"], templates)
        return records

    def _msa(self, chain: Mapping[str, Any], file: Path | None) -> str:
        from refsys.data.formats.msa import Msa, query_only, read_msa_file

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
            msa = (
                read_msa_file(file, sequence, realign=realign, alternatives=alternatives)
                if file
                else Msa(query_only(sequence), ())
            )
            return msa.columns, {
                "sequence": sequence,
                "source": file.name if file else "query only",
                "rows": len(msa.columns["codes"]),
                "notes": list(msa.notes),
            }

        return self.record("alignment", determined, build)

    def _searched(self, sequence: str, database: Path) -> str:
        from refsys.data.prepare.homology import search_msa, search_version

        determined = {
            "sequence": sequence,
            "database": self._database_digest,
            "search": search_version(),
        }

        def build() -> Record:
            columns = search_msa(sequence, database)
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

    def _proteins(self, structure: Columns, files: Mapping[str, Any], noun: str) -> dict[str, str]:
        """Return the sequence of each protein chain by its name.

        Raises:
            DataError: a file is given for a chain that is not a protein.
        """
        chains: list[dict[str, str]] = structure.facts["chains"]
        proteins = {c["name"]: c["sequence"] for c in chains if c["kind"] == "protein"}
        if unknown := sorted(set(files) - set(proteins)):
            raise DataError(
                f"{self._sources.structure}: {noun} is given for {', '.join(unknown)}, but its "
                f"protein chains are {', '.join(proteins) or 'none'}"
            )
        return proteins


def _by_sequence(files: Mapping[str, Any], proteins: Mapping[str, str]) -> dict[str, Any]:
    """Return the files of the first chain of each sequence."""
    first_of: dict[str, Any] = {}
    for chain, value in files.items():
        first_of.setdefault(proteins[chain], value)
    return first_of


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None


@cache
def _sources_digest(kind: str) -> str:
    files = [
        _DATA / room / f"{module}.py"
        for room, modules in _SOURCE_MODULES[kind].items()
        for module in modules
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
