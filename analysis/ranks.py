"""Chapter of step time and peak memory over the number of ranks."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from operator import attrgetter

import pandas as pd

from analysis.chapter import Chapter, Figure
from analysis.drawing import MAX_LINES
from analysis.growth import PEAK_MEMORY, STEP_TIME
from analysis.phases import METRIC as PHASES
from analysis.quantities import format_percent, format_size
from analysis.rank_groups import RankGroup, draw_groups, values_by_rank
from analysis.table import Cell, Row, rows

_QUANTITIES = (STEP_TIME, PEAK_MEMORY)
_COMMUNICATION = "all_reduce"


def rank_chapter(table: pd.DataFrame) -> Chapter:
    """Return the chapter of step time and peak memory over the number of ranks."""
    name, title = "ranks", "Scaling over ranks"
    meaning = (
        "Lines are the values of cases, points those of single ranks. Every rank trains on its own "
        "examples (weak scaling): a horizontal line is ideal."
    )
    teams = [team for team in _rank_groups(rows(table)) if any(team.values(q) for q in _QUANTITIES)]
    if not teams:
        return Chapter(name, title, meaning, notes=("Every record is of one rank.",))
    pages = [teams[k : k + MAX_LINES] for k in range(0, len(teams), MAX_LINES)]
    return Chapter(
        name,
        title,
        meaning,
        table=values_by_rank(table, [row for team in teams for row in team.rows], _QUANTITIES),
        figures=tuple(
            Figure(
                name if number == 1 else f"{name}-{number}",
                title if len(pages) == 1 else f"{title}, {number} of {len(pages)}",
                tuple(_finding(team) for team in page),
                partial(draw_groups, page, _QUANTITIES),
            )
            for number, page in enumerate(pages, start=1)
        ),
    )


def _rank_groups(records: Sequence[Row]) -> list[RankGroup]:
    groups: defaultdict[tuple[Cell, ...], list[Row]] = defaultdict(list)
    for row in records:
        if row.status == "ok" and row.context_ranks == 1:
            key = (row.workload, row.series, row.variant, row.device, row.tokens)
            groups[key].append(row)
    teams = []
    for members in groups.values():
        if any(row.ranks > 1 for row in members):
            row = members[0]
            detail = f" ({row.variant})" if row.variant else ""
            size = f", {format_size(row.tokens)}" if row.tokens else ""
            teams.append(
                RankGroup(f"{row.series}{detail}{size}", tuple(members), attrgetter("ranks"))
            )
    return teams


def _finding(team: RankGroup) -> str:
    clauses = team.comparisons(_QUANTITIES)
    row = max(team.rows, key=lambda row: row.ranks)
    waited, total = row.parts(PHASES).get(_COMMUNICATION), row.value("step_time_s")
    if waited is not None and total:
        share = format_percent(waited / total)
        clauses.append(f"{share} of the time is spent waiting for the gradient all-reduce")
    return f"{team.label}: {'; '.join(clauses)}."
