"""What the entries of a store are to one another: templates, and clusters of like chains.

Each chain finds its templates among the other entries, and belongs to a cluster: proteins that have
40 % of their residues in common, peptides and nucleic acids of one sequence, ligands of one content
(AlphaFold 3 supplement, sections 2.4 and 2.5). What is found is kept by the set of sequences, so
that it is searched for again only when that changes.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refsys.data.prepare.entries import Maker
from refsys.data.prepare.homology import Hits, hits_among, search_version
from refsys.data.prepare.templates import template_columns
from refsys.data.store.columns import Columns
from refsys.data.store.store import Record, Store, short_digest
from refsys.errors import DataError, RefsysError, unexpected_error

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
    """The result of a search for templates and clusters.

    Attributes:
        changed: Entries of which something changed.
        templates: Chains that have templates.
        repaired: What was wrong with each record that had to be made again.
        errors: Of the entries that could not be searched for; they keep what was said of them.
    """

    changed: int
    templates: int
    repaired: tuple[str, ...]
    errors: tuple[RefsysError, ...] = ()


class _Chain(NamedTuple):
    """A protein chain that may be a template."""

    base: str
    name: str
    sequence: str
    record: str
    released: date | None


def relate(store: Store, entries: Collection[str] | None = None) -> Related:
    """Find the templates and clusters of entries among all of a store.

    An entry for which that fails is one of the result's errors, and the search goes on.

    Args:
        store: Where they are.
        entries: Which; all if None. Others keep what was said of them, so that a run that trains on
            them goes on as it began.

    Raises:
        DataError: the search itself fails: the store cannot be written, or pyhmmer is missing.
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
    number = {sequence: index for index, sequence in enumerate(sequences)}
    candidates = _candidates(structures, number)
    search = _Search(sequences, hits, number, _clusters(sequences, hits), candidates)
    changed = templates = 0
    errors: list[RefsysError] = []
    for entry, columns in structures.items():
        if entries is not None and entry not in entries:
            continue
        try:
            relations = _relations(maker, store, columns, search)
            changed += store.write_relations(entry, relations)
            templates += len(relations["templates"])
        except RefsysError as error:
            errors.append(error)
        except Exception as error:
            errors.append(unexpected_error(f"{columns.path}: {entry}", error))
    return Related(changed, templates, tuple(maker.repaired), tuple(errors))


class _Search(NamedTuple):
    """Search results among all protein sequences of a store.

    Attributes:
        sequences: Sorted.
        hits: Of each among all.
        number: Of each sequence.
        cluster: [sequence] number of its cluster's representative.
        candidates: [sequence] chains of it that may be templates.
    """

    sequences: Sequence[str]
    hits: Hits
    number: Mapping[str, int]
    cluster: Sequence[int]
    candidates: Sequence[list[_Chain]]


def _relations(maker: Maker, store: Store, columns: Columns, search: _Search) -> dict[str, Any]:
    """Return what `Store.write_relations` keeps of an entry."""
    chains = columns.facts["chains"]
    templates: dict[str, str] = {}
    for index, chain in enumerate(chains):
        if chain["kind"] == "protein":
            sequence = chain["sequence"]
            like = search.hits.target[_run(search.hits.query, search.number[sequence])]
            chosen = _chosen(columns, sequence, [search.candidates[target] for target in like])
            record = _templates(maker, store, sequence, chosen)
            templates |= {str(index): record} if record else {}
    clusters = [
        search.sequences[search.cluster[search.number[chain["sequence"]]]]
        if len(chain["sequence"]) >= _SHORTEST_PROTEIN
        else chain["contents"]
        for chain in chains
    ]
    return {
        "structure": columns.path.name,
        "templates": templates,
        "clusters": [short_digest(text) for text in clusters],
    }


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
            try:
                opened = store.record("structure", record)
                template_columns(sequence, [(opened, name)])
            except DataError:
                continue
            fitting.append((opened, name))
        return template_columns(sequence, fitting), {
            "templates": [f"{opened.facts['entry']} {name}" for opened, name in fitting]
        }

    name = maker.record("templates", {"sequence": sequence, "found": parts}, build)
    return name if store.record("templates", name).facts["templates"] else None
