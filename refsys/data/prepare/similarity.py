"""Template search and clustering among the entries of a store, by sequence similarity.

The templates of a chain are chains of other entries. Clusters are proteins with 40 % sequence
identity, peptides and nucleic acids of equal sequence, and ligands of equal content (AlphaFold 3
supplement, sections 2.4 and 2.5). The hits are a record named by the set of sequences, so that the
search runs again only when the set changes.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refsys.data.prepare.entries import RecordBuilder
from refsys.data.prepare.homology import Hits, hits_among, search_version
from refsys.data.prepare.templates import template_columns
from refsys.data.store.columns import Columns
from refsys.data.store.store import Record, Store, short_digest
from refsys.errors import DataError, RefsysError, unexpected_error

# A template must have been released this long before the structure.
_BEFORE = timedelta(days=60)
_MOST_TEMPLATES = 20
# Shorter proteins are peptides, which are clustered only if equal.
_SHORTEST_PROTEIN = 10
_LEAST_IDENTITY = 0.4
# Fraction of the shorter of two similar sequences that is aligned with the other.
_LEAST_COVERAGE = 0.8
# A template that has a longer part of the sequence itself is rejected: it would reveal the answer.
_LARGEST_COPY = 0.95


class SimilarityResult(NamedTuple):
    """Result of a template and cluster search.

    Attributes:
        changed: Number of entries whose templates or clusters changed.
        templates: Number of chains with templates.
        repaired: Damage of each record that had to be built again.
        errors: Errors of single entries; these keep their earlier templates and clusters.
    """

    changed: int
    templates: int
    repaired: tuple[str, ...]
    errors: tuple[RefsysError, ...] = ()


class _Chain(NamedTuple):
    """A protein chain that may be a template.

    Attributes:
        base: Name of the entry without an assembly's suffix.
        name: Name of the chain.
        sequence: One letter per residue.
        record: Name of the structure record.
        released: Release date, None if unknown.
    """

    base: str
    name: str
    sequence: str
    record: str
    released: date | None


def find_templates_and_clusters(
    store: Store, entries: Collection[str] | None = None
) -> SimilarityResult:
    """Find the templates and clusters of entries among all entries of a store.

    The failure of one entry is recorded in the result's errors, and the search continues.

    Args:
        store: The store.
        entries: Names of the entries to update; all if None. The others keep their templates and
            clusters, so that a training run on them does not change.

    Raises:
        DataError: the search itself fails: the store cannot be written, or pyhmmer is missing.
    """
    builder = RecordBuilder(store)
    structures = store.structures()
    sequences = sorted(
        {
            chain["sequence"]
            for columns in structures.values()
            for chain in columns.facts["chains"]
            if chain["kind"] == "protein"
        }
    )
    hits = _hits(builder, store, sequences)
    number = {sequence: index for index, sequence in enumerate(sequences)}
    candidates = _candidates(structures, number)
    search = _Search(sequences, hits, number, _clusters(sequences, hits), candidates)
    changed = templates = 0
    errors: list[RefsysError] = []
    for entry, columns in structures.items():
        if entries is not None and entry not in entries:
            continue
        try:
            relations = _relations(builder, store, columns, search)
            changed += store.write_relations(entry, relations)
            templates += len(relations["templates"])
        except RefsysError as error:
            errors.append(error)
        except Exception as error:
            errors.append(unexpected_error(f"{columns.path}: {entry}", error))
    return SimilarityResult(changed, templates, tuple(builder.repaired), tuple(errors))


class _Search(NamedTuple):
    """Search results among all protein sequences of a store.

    Attributes:
        sequences: All protein sequences, sorted.
        hits: Hits of each sequence among all.
        number: Number of each sequence.
        cluster: [sequence] number of its cluster's representative.
        candidates: [sequence] chains with the sequence that may be templates.
    """

    sequences: Sequence[str]
    hits: Hits
    number: Mapping[str, int]
    cluster: Sequence[int]
    candidates: Sequence[list[_Chain]]


def _relations(
    builder: RecordBuilder, store: Store, columns: Columns, search: _Search
) -> dict[str, Any]:
    """Return the relations of an entry, see `Store.write_relations`."""
    chains = columns.facts["chains"]
    templates: dict[str, str] = {}
    for index, chain in enumerate(chains):
        if chain["kind"] == "protein":
            sequence = chain["sequence"]
            targets = search.hits.target[_run(search.hits.query, search.number[sequence])]
            eligible = _eligible(
                columns, sequence, [search.candidates[target] for target in targets]
            )
            record = _templates(builder, store, sequence, eligible)
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


def _hits(builder: RecordBuilder, store: Store, sequences: Sequence[str]) -> Hits:
    determined = {"search": search_version(), "sequences": list(sequences)}

    def build() -> Record:
        return dict(hits_among(sequences)._asdict()), {"sequences": len(sequences)}

    columns = store.record("hits", builder.record("hits", determined, build))
    return Hits(*(np.asarray(columns[name]) for name in Hits._fields))


def _run(ascending: NDArray[np.int32], value: int) -> slice:
    """Return the run of a value in an ascending array."""
    return slice(*np.searchsorted(ascending, [value, value + 1]).tolist())


def _clusters(sequences: Sequence[str], hits: Hits) -> list[int]:
    """Return the representative of each sequence: the first similar one, longest first."""
    lengths = np.array([len(sequence) for sequence in sequences])
    shorter = np.minimum(lengths[hits.query], lengths[hits.target]) if sequences else lengths
    is_similar = (hits.identical >= _LEAST_IDENTITY * hits.aligned) & (
        hits.aligned >= _LEAST_COVERAGE * shorter
    )
    similar_to: dict[int, set[int]] = {index: {index} for index in range(len(sequences))}
    for one, two in zip(
        hits.query[is_similar].tolist(), hits.target[is_similar].tolist(), strict=True
    ):
        similar_to[one].add(two)
        similar_to[two].add(one)
    representative: dict[int, int] = {}
    for index in np.argsort(-lengths, kind="stable").tolist():
        if index not in representative:
            for other in similar_to[index]:
                representative.setdefault(other, index)
    return [representative[index] for index in range(len(sequences))]


def _candidates(structures: Mapping[str, Columns], number: Mapping[str, int]) -> list[list[_Chain]]:
    """Return, by sequence, its first chain in each entry that is an asymmetric unit."""
    first_chains: list[dict[str, _Chain]] = [{} for _ in number]
    for entry, columns in structures.items():
        if columns.facts["assembly"] is not None:
            continue
        for chain in columns.facts["chains"]:
            if chain["kind"] == "protein":
                sequence, record = chain["sequence"], columns.path.name
                candidate = _Chain(
                    _base(entry), chain["name"], sequence, record, _released(columns)
                )
                first_chains[number[sequence]].setdefault(entry, candidate)
    return [list(chains.values()) for chains in first_chains]


def _eligible(
    columns: Columns, sequence: str, candidates: Sequence[Sequence[_Chain]]
) -> list[_Chain]:
    """Return the candidates that may be templates of a sequence, best first."""
    released = _released(columns)
    own_base = _base(columns.facts["entry"])
    eligible = [
        chain
        for chains in candidates
        for chain in chains
        if chain.base != own_base
        and not _is_copy(chain.sequence, sequence)
        and (released is None or (chain.released or date.max) <= released - _BEFORE)
    ]
    return eligible[:_MOST_TEMPLATES]


def _is_copy(candidate: str, sequence: str) -> bool:
    return candidate in sequence and len(candidate) > _LARGEST_COPY * len(sequence)


def _released(columns: Columns) -> date | None:
    day = columns.facts["released"]
    return date.fromisoformat(day) if day else None


def _base(entry: str) -> str:
    """Return the name of an entry without the suffix of an assembly."""
    return entry.partition("-assembly")[0]


def _templates(
    builder: RecordBuilder, store: Store, sequence: str, templates: list[_Chain]
) -> str | None:
    """Build the record of the templates that can be aligned to a sequence.

    Returns:
        Name of the record, None if no chain can be aligned.
    """
    if not templates:
        return None
    parts = [(chain.record, chain.name) for chain in templates]

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

    name = builder.record("templates", {"sequence": sequence, "found": parts}, build)
    return name if store.record("templates", name).facts["templates"] else None
