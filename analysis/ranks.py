"""Chapter of step time and peak memory over the number of ranks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from analysis.chapter import Chapter, Figure
from analysis.drawing import (
    MAX_LINES,
    PAGE,
    legend_above,
    legend_rows,
    line_style,
    paper_style,
    plot_text,
    subplots,
)
from analysis.growth import PEAK_MEMORY, STEP_TIME
from analysis.phases import METRIC as PHASES
from analysis.quantities import (
    Quantity,
    format_percent,
    format_ratio,
    format_size,
    format_value,
    unit_of,
)
from analysis.table import IDENTITY, Cell, Row

_QUANTITIES = (STEP_TIME, PEAK_MEMORY)
_COMMUNICATION = "all_reduce"


@dataclass(frozen=True, slots=True)
class RankGroup:
    """Rows that differ only in the number of ranks.

    Attributes:
        label: Label of the rows, for legends.
        rows: Rows of the group.
    """

    label: str
    rows: tuple[Row, ...]

    def values(self, quantity: Quantity) -> list[tuple[int, float, list[float]]]:
        """Return (ranks, median value of the cases, values of single ranks), ranks ascending."""
        metric = next(
            (m for m in quantity.metrics if any(row.value(m) is not None for row in self.rows)), ""
        )
        by_ranks = []
        for count in sorted({row.ranks for row in self.rows}):
            rows = [row for row in self.rows if row.ranks == count]
            values = [float(v) for row in rows if (v := row.value(metric)) is not None]
            if values:
                per_rank = [float(value) for row in rows for value in row.rank_values(metric)]
                by_ranks.append((count, median(values), per_rank))
        return by_ranks


def rank_chapter(rows: Sequence[Row]) -> Chapter:
    """Return the chapter of step time and peak memory over the number of ranks."""
    name, title = "ranks", "Scaling over ranks"
    meaning = (
        "Lines are the values of cases, points those of single ranks. Every rank trains on its own "
        "examples (weak scaling): a horizontal line is ideal."
    )
    teams = [team for team in _rank_groups(rows) if any(team.values(q) for q in _QUANTITIES)]
    if not teams:
        return Chapter(name, title, meaning, notes=("Every record is of one rank.",))
    pages = [teams[k : k + MAX_LINES] for k in range(0, len(teams), MAX_LINES)]
    return Chapter(
        name,
        title,
        meaning,
        columns=(*IDENTITY, "tokens", "metric", "rank", "value", "run_id"),
        lines=tuple(_lines(teams)),
        figures=tuple(
            Figure(
                name if number == 1 else f"{name}-{number}",
                title if len(pages) == 1 else f"{title}, {number} of {len(pages)}",
                tuple(_finding(team) for team in page),
                partial(_draw, page),
            )
            for number, page in enumerate(pages, start=1)
        ),
    )


def _rank_groups(rows: Sequence[Row]) -> list[RankGroup]:
    groups: defaultdict[tuple[Cell, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.status == "ok":
            key = (row.workload, row.series, row.variant, row.device, row.tokens)
            groups[key].append(row)
    teams = []
    for members in groups.values():
        if any(row.ranks > 1 for row in members):
            row = members[0]
            detail = f" ({row.variant})" if row.variant else ""
            size = f", {format_size(row.tokens)}" if row.tokens else ""
            teams.append(RankGroup(f"{row.series}{detail}{size}", tuple(members)))
    return teams


def _lines(teams: Sequence[RankGroup]) -> list[tuple[Cell, ...]]:
    out: list[tuple[Cell, ...]] = []
    for team in teams:
        for row in sorted(team.rows, key=lambda row: row.ranks):
            for quantity in _QUANTITIES:
                for metric in quantity.metrics:
                    for rank, value in enumerate(row.rank_values(metric)):
                        where = (row.tokens, metric, rank)
                        out.append((*row.identity, *where, value, row.record["run_id"]))
    return out


def _finding(team: RankGroup) -> str:
    clauses = []
    for quantity in _QUANTITIES:
        values = team.values(quantity)
        if len(values) > 1:
            (fewest, first, _), (most, last, _) = values[0], values[-1]
            clauses.append(
                f"{quantity.label} at {most} ranks is {format_ratio(last / first)} that at "
                f"{fewest} ({format_value(last, quantity.kind)}, "
                f"{format_value(first, quantity.kind)})"
            )
        elif values:
            count, value, _ = values[0]
            text = format_value(value, quantity.kind)
            clauses.append(f"{quantity.label} at {count} ranks is {text}")
    row = max(team.rows, key=lambda row: row.ranks)
    waited, total = row.parts(PHASES).get(_COMMUNICATION), row.value("step_time_s")
    if waited is not None and total:
        share = format_percent(waited / total)
        clauses.append(f"{share} of the time is spent waiting for the gradient all-reduce")
    return f"{team.label}: {'; '.join(clauses)}."


def _draw(teams: Sequence[RankGroup]) -> Any:
    named = [team.label for team in teams]
    with paper_style():
        figure, axes = subplots(2, height=2.2, width=PAGE, legend_rows=legend_rows(named, PAGE))
        for quantity, panel in zip(_QUANTITIES, axes, strict=True):
            values_of_teams = [team.values(quantity) for team in teams]
            unit = unit_of(
                quantity.kind, [value for team in values_of_teams for _, value, _ in team]
            )
            for number, (team, values) in enumerate(zip(teams, values_of_teams, strict=True)):
                style = line_style(number)
                panel.plot(
                    [count for count, _, _ in values],
                    [value / unit.factor for _, value, _ in values],
                    linestyle=style.dashes,
                    color=style.colour,
                    marker=style.marker,
                    label=plot_text(team.label),
                )
                points = [(count, value) for count, _, ranks in values for value in ranks]
                panel.plot(
                    [count for count, _ in points],
                    [value / unit.factor for _, value in points],
                    "_",
                    color=style.colour,
                    ms=7,
                )
            counts = sorted({count for team in values_of_teams for count, _, _ in team})
            panel.set_xticks(counts)
            panel.set_xlim(min(counts) - 0.5, max(counts) + 0.5)
            panel.set_ylim(0, panel.get_ylim()[1] * 1.05)
            panel.set_xlabel("number of ranks")
            panel.set_ylabel(f"{quantity.label} ({unit.name})")
        handles = axes[0].get_legend_handles_labels()[0]
        legend_above(figure, handles)
    return figure
