"""Several ranks: step time and peak memory by how many work on a case together."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from analysis.chapter import Chapter, Figure
from analysis.drawing import (
    MOST_LINES,
    PAGE,
    legend_above,
    legend_rows,
    look,
    plain,
    styled,
    subplots,
)
from analysis.growth import PEAK_MEMORY, STEP_TIME
from analysis.phases import METRIC as PHASES
from analysis.quantities import Quantity, at_size, percent, times, unit_of, written
from analysis.table import IDENTITY, Cell, Row

_QUANTITIES = (STEP_TIME, PEAK_MEMORY)
_COMMUNICATION = "all_reduce"


@dataclass(frozen=True, slots=True)
class Team:
    """Rows that differ in their number of ranks alone.

    Attributes:
        label: What they are.
        rows: By number of ranks, ascending.
    """

    label: str
    rows: tuple[Row, ...]

    def values(self, quantity: Quantity) -> list[tuple[int, float, list[float]]]:
        """(ranks, the case's value, each rank's) of a quantity, medians over its like."""
        metric = next(
            (m for m in quantity.metrics if any(row.value(m) is not None for row in self.rows)), ""
        )
        found = []
        for count in sorted({row.ranks for row in self.rows}):
            rows = [row for row in self.rows if row.ranks == count]
            there = [float(v) for row in rows if (v := row.value(metric)) is not None]
            if there:
                each = [float(value) for row in rows for value in row.each_rank(metric)]
                found.append((count, median(there), each))
        return found


def rank_chapter(rows: Sequence[Row]) -> Chapter:
    """Step time and peak memory against the number of ranks."""
    name, title = "ranks", "Several ranks"
    meaning = (
        "The case's value is a line, each rank's a point. Every rank trains on examples of its "
        "own, so that a step of more ranks does more work: level is ideal."
    )
    teams = [team for team in _teams(rows) if any(team.values(q) for q in _QUANTITIES)]
    if not teams:
        return Chapter(name, title, meaning, notes=("Every record is of one rank.",))
    pages = [teams[k : k + MOST_LINES] for k in range(0, len(teams), MOST_LINES)]
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


def _teams(rows: Sequence[Row]) -> list[Team]:
    groups: defaultdict[tuple[Cell, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.status == "ok":
            key = (row.workload, row.series, row.variant, row.device, row.tokens)
            groups[key].append(row)
    found = []
    for members in groups.values():
        if any(row.ranks > 1 for row in members):
            row = members[0]
            detail = f" ({row.variant})" if row.variant else ""
            size = f", {at_size(row.tokens)}" if row.tokens else ""
            found.append(Team(f"{row.series}{detail}{size}", tuple(members)))
    return found


def _lines(teams: Sequence[Team]) -> list[tuple[Cell, ...]]:
    out: list[tuple[Cell, ...]] = []
    for team in teams:
        for row in sorted(team.rows, key=lambda row: row.ranks):
            for quantity in _QUANTITIES:
                for metric in quantity.metrics:
                    for rank, value in enumerate(row.each_rank(metric)):
                        where = (row.tokens, metric, rank)
                        out.append((*row.identity, *where, value, row.record["run_id"]))
    return out


def _finding(team: Team) -> str:
    told = []
    for quantity in _QUANTITIES:
        values = team.values(quantity)
        if len(values) > 1:
            (fewest, first, _), (most, last, _) = values[0], values[-1]
            told.append(
                f"{quantity.label} at {most} ranks {times(last / first)} that at {fewest} "
                f"({written(last, quantity.kind)}, {written(first, quantity.kind)})"
            )
        elif values:
            count, value, _ = values[0]
            told.append(f"{quantity.label} at {count} ranks {written(value, quantity.kind)}")
    row = max(team.rows, key=lambda row: row.ranks)
    waited, whole = row.parts(PHASES).get(_COMMUNICATION), row.value("step_time_s")
    if waited is not None and whole:
        told.append(f"of the time {percent(waited / whole)} waits for the others' gradients")
    return f"{team.label}: {'; '.join(told)}."


def _draw(teams: Sequence[Team]) -> Any:
    named = [team.label for team in teams]
    with styled():
        figure, axes = subplots(2, height=2.2, width=PAGE, legend_rows=legend_rows(named, PAGE))
        for quantity, each in zip(_QUANTITIES, axes, strict=True):
            found = [team.values(quantity) for team in teams]
            unit = unit_of(quantity.kind, [value for team in found for _, value, _ in team])
            for number, (team, values) in enumerate(zip(teams, found, strict=True)):
                how = look(number)
                each.plot(
                    [count for count, _, _ in values],
                    [value / unit.factor for _, value, _ in values],
                    linestyle=how.dashes,
                    color=how.colour,
                    marker=how.marker,
                    label=plain(team.label),
                )
                points = [(count, value) for count, _, ranks in values for value in ranks]
                each.plot(
                    [count for count, _ in points],
                    [value / unit.factor for _, value in points],
                    "_",
                    color=how.colour,
                    ms=7,
                )
            counts = sorted({count for team in found for count, _, _ in team})
            each.set_xticks(counts)
            each.set_xlim(min(counts) - 0.5, max(counts) + 0.5)
            each.set_ylim(0, each.get_ylim()[1] * 1.05)
            each.set_xlabel("ranks")
            each.set_ylabel(f"{quantity.label} ({unit.name})")
        handles = axes[0].get_legend_handles_labels()[0]
        legend_above(figure, handles)
    return figure
