"""What the entries of a store are to one another: templates, and clusters of like chains.

Each chain finds its templates among the other entries, and belongs to a cluster: proteins that have
40 % of their residues in common, peptides and nucleic acids of one sequence, ligands of one content
(AlphaFold 3 supplement, sections 2.4 and 2.5). What is found is kept by the set of sequences, so
that it is searched for again only when that changes.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refsys.data.columns import Columns
from refsys.data.homology import Hits, hits_among, search_version
from refsys.data.preparation import Maker
from refsys.data.store import Record, Store, short_digest
from refsys.data.templates import template_columns
from refsys.errors import DataError

# A template was released so long before what it is a template of.
_BEFORE = timedelta(days=60)
_MOST_TEMPLATES = 20
# Shorter ones are peptides, which must be the same to be alike.
_SHORTEST_PROTEIN = 10
_LEAST_IDENTITY = 0.4
# Of the shorter of two sequences, so much stands beside the other.
_LEAST_COVERAGE = 0.8
# What is the same as so much of the sequence is no template: it is the answer.
_LARGEST_COPY = 0.95


class Related(NamedTuple):
    """What relating did: entries of which something changed, and templates found in all."""

    changed: int
    templates: int
    repaired: tuple[str, ...]


class _Chain(NamedTuple):
    """A protein chain that may be a template."""

    base: str
    name: str
    sequence: str
    record: str
    released: date | None


def relate(store: Store, entries: Collection[str] | None = None) -> Related:
    """Finds the templates and clusters of entries among all of a store.

    Args:
        store: Where they are.
        entries: Which; all if None. Others keep what was said of them, so that a run that trains on
            them goes on as it began.

    Raises:
        DataError: a record is damaged, the store cannot be written, or pyhmmer is missing.
    """
    maker = Maker(store)
    structures = store.structures()
    sequences = sorted(
        {
            chain["sequence"]
            for columns in structures.values()
            for chain in columns.facts["chains"]
            if chain["kind"] == "protein"
        }
    )
    hits = _hits(maker, store, sequences)
    number = {sequence: place for place, sequence in enumerate(sequences)}
    cluster = _clusters(sequences, hits)
    candidates = _candidates(structures, number)
    changed = found = 0
    for entry, columns in structures.items():
        if entries is not None and entry not in entries:
            continue
        chains = columns.facts["chains"]
        templates: dict[str, str] = {}
        for place, chain in enumerate(chains):
            if chain["kind"] == "protein":
                sequence = chain["sequence"]
                like = hits.target[_run(hits.query, number[sequence])]
                chosen = _chosen(columns, sequence, [candidates[each] for each in like])
                record = _templates(maker, store, sequence, chosen)
                templates |= {str(place): record} if record else {}
        clusters = [
            sequences[cluster[number[chain["sequence"]]]]
            if len(chain["sequence"]) >= _SHORTEST_PROTEIN
            else chain["contents"]
            for chain in chains
        ]
        found += len(templates)
        changed += store.write_relations(
            entry,
            {
                "structure": columns.path.name,
                "templates": templates,
                "clusters": [short_digest(text) for text in clusters],
            },
        )
    return Related(changed, found, tuple(maker.repaired))


def _hits(maker: Maker, store: Store, sequences: Sequence[str]) -> Hits:
    determined = {"search": search_version(), "sequences": list(sequences)}

    def build() -> Record:
        return dict(hits_among(sequences)._asdict()), {"sequences": len(sequences)}

    columns = store.record("hits", maker.record("hits", determined, build))
    return Hits(*(np.asarray(columns[name]) for name in Hits._fields))


def _run(ascending: NDArray[np.int32], value: int) -> slice:
    """Where a value is."""
    return slice(*np.searchsorted(ascending, [value, value + 1]).tolist())


def _clusters(sequences: Sequence[str], hits: Hits) -> list[int]:
    """The representative of each sequence: of the longest ones first, the first that it is like."""
    lengths = np.array([len(sequence) for sequence in sequences])
    shorter = np.minimum(lengths[hits.query], lengths[hits.target]) if sequences else lengths
    alike = (hits.identical >= _LEAST_IDENTITY * hits.aligned) & (
        hits.aligned >= _LEAST_COVERAGE * shorter
    )
    like: dict[int, set[int]] = {place: {place} for place in range(len(sequences))}
    for one, two in zip(hits.query[alike].tolist(), hits.target[alike].tolist(), strict=True):
        like[one].add(two)
        like[two].add(one)
    representative: dict[int, int] = {}
    for place in np.argsort(-lengths, kind="stable").tolist():
        if place not in representative:
            for other in like[place]:
                representative.setdefault(other, place)
    return [representative[place] for place in range(len(sequences))]


def _candidates(structures: Mapping[str, Columns], number: Mapping[str, int]) -> list[list[_Chain]]:
    """[sequence] the first chain of it in each entry that is an asymmetric unit."""
    found: list[dict[str, _Chain]] = [{} for _ in number]
    for entry, columns in structures.items():
        if columns.facts["assembly"] is not None:
            continue
        for chain in columns.facts["chains"]:
            if chain["kind"] == "protein":
                sequence, record = chain["sequence"], columns.path.name
                one = _Chain(_base(entry), chain["name"], sequence, record, _released(columns))
                found[number[sequence]].setdefault(entry, one)
    return [list(chains.values()) for chains in found]


def _chosen(columns: Columns, sequence: str, like: Sequence[Sequence[_Chain]]) -> list[_Chain]:
    """Of chains of like sequence, the best ones first, those that may be templates."""
    released = _released(columns)
    ours = _base(columns.facts["entry"])
    chosen = [
        chain
        for chains in like
        for chain in chains
        if chain.base != ours
        and not _is_copy(chain.sequence, sequence)
        and (released is None or (chain.released or date.max) <= released - _BEFORE)
    ]
    return chosen[:_MOST_TEMPLATES]


def _is_copy(theirs: str, ours: str) -> bool:
    return theirs in ours and len(theirs) > _LARGEST_COPY * len(ours)


def _released(columns: Columns) -> date | None:
    day = columns.facts["released"]
    return date.fromisoformat(day) if day else None


def _base(entry: str) -> str:
    """An entry's name without its assembly's."""
    return entry.partition("-assembly")[0]


def _templates(maker: Maker, store: Store, sequence: str, chosen: list[_Chain]) -> str | None:
    """Name of the record of those of the chains that can be laid onto the sequence, if any can."""
    if not chosen:
        return None
    parts = [(chain.record, chain.name) for chain in chosen]

    def build() -> Record:
        fitting = []
        for record, name in parts:
            opened = store.record("structure", record)
            try:
                template_columns(sequence, [(opened, name)])
            except DataError:
                continue
            fitting.append((opened, name))
        return template_columns(sequence, fitting), {
            "templates": [f"{opened.facts['entry']} {name}" for opened, name in fitting]
        }

    name = maker.record("templates", {"sequence": sequence, "found": parts}, build)
    return name if store.record("templates", name).facts["templates"] else None
