"""Chapter of cases whose examples are divided among ranks, over the number of context ranks."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import log
from operator import attrgetter

import pandas as pd

from analysis.chapter import Chapter, Figure
from analysis.drawing import MAX_LINES
from analysis.growth import PEAK_MEMORY, STEP_TIME
from analysis.quantities import Quantity, format_percent, format_size
from analysis.rank_groups import RankGroup, draw_groups, values_by_rank
from analysis.table import Cell, Row, rows

NAME = "context_ranks"
_QUANTITIES = (
    STEP_TIME,
    PEAK_MEMORY,
    Quantity("collective_bytes", ("collective_bytes",), "bytes", "bytes sent by a rank"),
    Quantity("collective_wait", ("collective_wait_s",), "seconds", "wait for other ranks"),
)
_BYTES = "collective_bytes"
# Largest relative difference of N²/P within a group of weak scaling.
_EQUAL = 0.05
_TITLES = {
    "strong": "Examples divided among ranks: the same number of tokens",
    "weak": "Examples divided among ranks: the same part of the pair representation",
}


def context_chapter(table: pd.DataFrame) -> Chapter:
    """Return the chapter of examples that are divided among ranks (strong and weak scaling)."""
    title = "Examples divided among ranks"
    meaning = (
        "P context ranks divide the tokens and pairs of each example. Lines are the values of "
        "cases, points those of single ranks. With the same number of tokens, N, time and memory "
        "of a rank ideally fall as 1/P; with the same part of the pair representation, N²/P, "
        "memory is ideally the same. On a CPU, memory includes what does not depend on N."
    )
    records = rows(table)
    strong, weak = _same_tokens(records), _same_share(records)
    if not strong:
        return Chapter(NAME, title, meaning, notes=("No record divides an example among ranks.",))
    figures = [
        Figure(
            f"{NAME}-{kind}" if page == 0 else f"{NAME}-{kind}-{page + 1}",
            _TITLES[kind],
            tuple(_finding(group) for group in groups[start : start + MAX_LINES]),
            partial(
                draw_groups,
                groups[start : start + MAX_LINES],
                [q for q in _QUANTITIES if any(group.values(q) for group in groups)],
                "number of context ranks",
            ),
        )
        for kind, groups in (("strong", strong), ("weak", weak))
        for page, start in enumerate(range(0, len(groups), MAX_LINES))
    ]
    shown = {row.record["run_id"]: row for group in (*strong, *weak) for row in group.rows}
    return Chapter(
        NAME,
        title,
        meaning,
        table=values_by_rank(table, shown.values(), _QUANTITIES, also=[NAME]),
        figures=tuple(figures),
    )


def _same_tokens(records: Sequence[Row]) -> list[RankGroup]:
    """Return groups of equal numbers of tokens (strong scaling)."""
    groups: defaultdict[tuple[Cell, ...], list[Row]] = defaultdict(list)
    for row in records:
        if row.status == "ok" and row.tokens:
            groups[*_identity(row), row.tokens].append(row)
    return _labelled(groups.values(), lambda row: format_size(row.tokens))


def _same_share(records: Sequence[Row]) -> list[RankGroup]:
    """Return groups of different numbers of tokens, N²/P being equal (weak scaling)."""
    groups: list[list[Row]] = []
    candidates = [row for row in records if row.status == "ok" and row.tokens]
    for row in sorted(candidates, key=lambda row: (row.context_ranks, row.tokens)):
        for group in groups:
            first = group[0]
            if (
                _identity(row) == _identity(first)
                and abs(log(_share(row) / _share(first))) < _EQUAL
            ):
                group.append(row)
                break
        else:
            groups.append([row])
    several = [group for group in groups if len({row.tokens for row in group}) > 1]
    return _labelled(several, lambda row: f"N²/P\u00a0=\u00a0{_share(row):.0f}")


def _share(row: Row) -> float:
    return row.tokens**2 / row.context_ranks


def _labelled(groups: Iterable[Sequence[Row]], size: Callable[[Row], str]) -> list[RankGroup]:
    """Return the groups with several numbers of context ranks."""
    found = []
    for members in groups:
        if len({row.context_ranks for row in members}) > 1:
            first = min(members, key=attrgetter("context_ranks"))
            variant = _undivided_variant(first)
            detail = f" ({variant})" if variant else ""
            label = f"{first.series}{detail}, {size(first)}"
            found.append(RankGroup(label, tuple(members), attrgetter("context_ranks")))
    return found


def _identity(row: Row) -> tuple[Cell, ...]:
    """Return what rows of a group have in common, with the data ranks that they have."""
    data_ranks = row.ranks // row.context_ranks
    return row.workload, row.series, _undivided_variant(row), row.device, data_ranks


def _undivided_variant(row: Row) -> str:
    parts = row.variant.split(", ")
    return ", ".join(part for part in parts if not part.startswith(f"{NAME}="))


def _finding(group: RankGroup) -> str:
    clauses = group.comparisons(_QUANTITIES)
    row = max(group.rows, key=attrgetter("context_ranks"))
    by_operator = row.breakdown(_BYTES)
    if by_operator:
        operator, nbytes = max(by_operator.items(), key=lambda item: item[1])
        share = format_percent(nbytes / sum(by_operator.values()))
        clauses.append(
            f"at {row.context_ranks} ranks {share} of the bytes are of {operator.replace('_', ' ')}"
        )
    return f"{group.label}: {'; '.join(clauses)}."
