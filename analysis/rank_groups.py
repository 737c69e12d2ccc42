"""Groups of rows that differ only in a number of ranks, and their figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from analysis.drawing import (
    PAGE,
    legend_above,
    legend_rows,
    line_style,
    paper_style,
    plot_text,
    subplots,
)
from analysis.nested import rank_values
from analysis.quantities import Quantity, format_ratio, format_value, unit_of
from analysis.table import IDENTITY, Row, stacked


@dataclass(frozen=True, slots=True)
class RankGroup:
    """Rows that differ only in a number of ranks.

    Attributes:
        label: Label of the rows, for legends.
        rows: Rows of the group.
        count: Function that returns a row's number of ranks.
    """

    label: str
    rows: tuple[Row, ...]
    count: Callable[[Row], int]

    def values(self, quantity: Quantity) -> list[tuple[int, float, list[float]]]:
        """Return (ranks, median value of the cases, values of single ranks), ranks ascending."""
        metric = next(
            (m for m in quantity.metrics if any(row.value(m) is not None for row in self.rows)), ""
        )
        by_ranks = []
        for count in sorted({self.count(row) for row in self.rows}):
            rows = [row for row in self.rows if self.count(row) == count]
            values = [float(v) for row in rows if (v := row.value(metric)) is not None]
            if values:
                per_rank = [float(value) for row in rows for value in row.rank_values(metric)]
                by_ranks.append((count, median(values), per_rank))
        return by_ranks

    def comparisons(self, quantities: Sequence[Quantity]) -> list[str]:
        """Return a clause for each quantity: the most ranks compared with the fewest."""
        clauses = []
        for quantity in quantities:
            values = self.values(quantity)
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
                ranks = "1 rank" if count == 1 else f"{count} ranks"
                clauses.append(f"{quantity.label} at {ranks} is {text}")
        return clauses


def values_by_rank(
    table: pd.DataFrame,
    rows: Iterable[Row],
    quantities: Sequence[Quantity],
    also: Sequence[str] = (),
) -> pd.DataFrame:
    """Return the value of each rank, for each metric of some quantities.

    Args:
        table: Records.
        rows: Rows of `table` that are wanted.
        quantities: Quantities whose metrics are wanted.
        also: Further columns of `table`.
    """
    selected = table.loc[[row.index for row in rows]]
    metrics = [metric for quantity in quantities for metric in quantity.metrics]
    tables = [
        rank_values(selected, metric, also)
        .rename(columns={metric: "value"})
        .assign(metric=metric)
        .astype({"value": "float64"})
        for metric in metrics
    ]
    by_rank = stacked(tables, (*IDENTITY, *also, "tokens", "metric", "rank", "value", "run_id"))
    return by_rank.sort_values([*IDENTITY, "tokens", "metric", "rank"], ignore_index=True)


def draw_groups(
    groups: Sequence[RankGroup], quantities: Sequence[Quantity], ranks: str = "number of ranks"
) -> Any:
    """Return a figure with a panel for each quantity: cases as lines, single ranks as points.

    Args:
        groups: A line each.
        quantities: A panel each.
        ranks: Label of the horizontal axis.
    """
    named = [group.label for group in groups]
    with paper_style():
        figure, axes = subplots(
            len(quantities), height=2.2, width=PAGE, legend_rows=legend_rows(named, PAGE)
        )
        for quantity, panel in zip(quantities, axes, strict=True):
            _draw_panel(panel, groups, quantity)
            panel.set_xlabel(ranks)
        legend_above(figure, axes[0].get_legend_handles_labels()[0])
    return figure


def _draw_panel(panel: Any, groups: Sequence[RankGroup], quantity: Quantity) -> None:
    values_of_groups = [group.values(quantity) for group in groups]
    unit = unit_of(quantity.kind, [value for values in values_of_groups for _, value, _ in values])
    for number, (group, values) in enumerate(zip(groups, values_of_groups, strict=True)):
        style = line_style(number)
        panel.plot(
            [count for count, _, _ in values],
            [value / unit.factor for _, value, _ in values],
            linestyle=style.dashes,
            color=style.colour,
            marker=style.marker,
            label=plot_text(group.label),
        )
        points = [(count, value) for count, _, ranks in values for value in ranks]
        panel.plot(
            [count for count, _ in points],
            [value / unit.factor for _, value in points],
            "_",
            color=style.colour,
            ms=7,
        )
    counts = sorted({group.count(row) for group in groups for row in group.rows})
    panel.set_xticks(counts)
    panel.set_xlim(min(counts) - 0.5, max(counts) + 0.5)
    panel.set_ylim(0, panel.get_ylim()[1] * 1.05)
    panel.set_ylabel(f"{quantity.label} ({unit.name})")
