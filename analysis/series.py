"""Series: rows that form one line of a figure, and their distribution over figures."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import pandas as pd

from analysis.table import Cell, Row, rows

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of one series label, variant, device and number of ranks, over sizes.

    Attributes:
        label: Label, unique within the report.
        rows: Rows, sizes ascending.
        table: DataFrame of records that the rows are of.
    """

    label: str
    rows: tuple[Row, ...]
    table: pd.DataFrame = field(repr=False, compare=False)

    @property
    def identity(self) -> tuple[Cell, ...]:
        """Values of the identity columns, which all rows share."""
        return self.rows[0].identity

    @property
    def workload(self) -> str:
        """Name of the workload."""
        return self.rows[0].workload

    def select(self, rows: Iterable[Row]) -> pd.DataFrame:
        """Return rows of the series as rows of the DataFrame."""
        return self.table.loc[[row.index for row in rows]]

    @property
    def is_of_host(self) -> bool:
        """True for programs of the host, such as a pipeline, which have no FLOPs of a model."""
        costs = [row.record["facts"] for row in self.rows if row.record["facts"]]
        return bool(costs) and all(facts["step_flops"] == 0 for facts in costs)

    def ok_rows(self) -> list[Row]:
        """Return the rows with status ``ok`` and a size."""
        return [row for row in self.rows if row.status == "ok" and row.tokens > 0]

    def sizes(self) -> list[float]:
        """Return the sizes of the successful rows, ascending."""
        return sorted({row.tokens for row in self.ok_rows()})

    def typical(self, value: Callable[[Row], float | None]) -> list[Row]:
        """Return one row for each size: the row with the median value (the lower of two)."""
        medians = []
        for size in self.sizes():
            of_size = [row for row in self.ok_rows() if row.tokens == size]
            ranked = sorted((v, k) for k, r in enumerate(of_size) if (v := value(r)) is not None)
            if ranked:
                medians.append(of_size[ranked[(len(ranked) - 1) // 2][1]])
        return medians


@dataclass(frozen=True, slots=True)
class Share:
    """Series that share a figure.

    Attributes:
        suffix: Suffix of the figure's file name; empty for the first figure.
        subject: Description of the selection, for titles; empty if there is one figure alone.
        series: Series that fit into the figure.
        all_series: Series of the subject, including those that do not fit.
    """

    suffix: str
    subject: str
    series: tuple[Series, ...]
    all_series: tuple[Series, ...]

    @property
    def left_out(self) -> int:
        """Number of series that do not fit."""
        return len(self.all_series) - len(self.series)


def series_of(table: pd.DataFrame) -> list[Series]:
    """Group the records of a DataFrame by workload, series, variant, device and ranks."""
    groups: defaultdict[tuple[Cell, ...], list[Row]] = defaultdict(list)
    for row in rows(table):
        groups[row.identity].append(row)
    members = [sorted(group, key=lambda row: row.tokens) for group in groups.values()]
    names = labels([group[0] for group in members])
    return [Series(name, tuple(group), table) for name, group in zip(names, members, strict=True)]


def labels(rows: Sequence[Row], *, named: bool = True) -> list[str]:
    """Return a label for each row's series: its name and the details that are not shared by all.

    Args:
        rows: One row of each series.
        named: Whether labels begin with the name; otherwise it is used only without details.
    """
    items = [[item for item in row.variant.split(", ") if item] for row in rows]
    shared = set.intersection(*map(set, items)) if items else set()
    devices = len({row.device for row in rows}) > 1
    names = []
    for row, parts in zip(rows, items, strict=True):
        details = [", ".join(part for part in parts if part not in shared)]
        details += [row.device] if devices else []
        details += [f"{row.ranks} ranks"] if row.ranks > 1 else []
        detail = "; ".join(filter(None, details))
        if named:
            names.append(f"{row.series} ({detail})" if detail else row.series)
        else:
            names.append(detail or row.series)
    # Two workloads may have series of the same name.
    return [
        f"{row.workload}: {label}" if names.count(label) > 1 else label
        for row, label in zip(rows, names, strict=True)
    ]


def shares(
    series: Sequence[Series], most: int, weight: Callable[[Series], float] | None = None
) -> list[Share]:
    """Distribute series over figures of at most `most` each.

    If they do not fit into one figure, the first has one series of each workload and device, and
    each workload with further series has a figure of its own. Series that do not fit into that
    figure are left out and counted.

    Args:
        series: Series to plot.
        most: Maximum number of series in a figure.
        weight: Preference within a workload's figure: the largest weights are plotted. By default,
            and in the first figure, series with the most sizes, then the largest sizes, then the
            fewest ranks are preferred.
    """
    if len(series) <= most:
        return [Share("", "", tuple(series), tuple(series))] if series else []
    widest = sorted(series, key=_order)
    heaviest = sorted(widest, key=weight, reverse=True) if weight else widest
    by_workload = dict(grouped(series, lambda s: s.workload))
    if len(by_workload) == 1:
        return [Share("", "", _select(series, heaviest, most), tuple(series))]
    firsts: dict[tuple[str, str], Series] = {}
    # Chosen by size alone, so that every chapter represents a workload by the same series.
    for s in widest:
        firsts.setdefault((s.workload, s.rows[0].device), s)
    representatives = tuple(sorted(firsts.values(), key=lambda s: s.label))
    first = _select(representatives, widest, most)
    figures = [Share("", "one of each workload", first, representatives)]
    first_ids = {id(s) for s in first}
    for number, (name, members) in enumerate(sorted(by_workload.items())):
        if any(id(s) not in first_ids for s in members):
            members_shown = _select(members, heaviest, most)
            figures.append(
                Share(_slug(name, number, by_workload), name, members_shown, tuple(members))
            )
    return figures


def _order(series: Series) -> tuple[object, ...]:
    sizes = series.sizes()
    return -len(sizes), -max(sizes, default=0.0), series.rows[0].ranks, series.label


def _select(members: Sequence[Series], heaviest: Sequence[Series], most: int) -> tuple[Series, ...]:
    """Return the `most` heaviest members by label; every name has a turn before a second one."""
    member_ids = {id(s) for s in members}
    turns: Counter[str] = Counter()
    ranked = []
    for s in heaviest:
        if id(s) in member_ids:
            name = s.rows[0].series
            ranked.append((turns[name], s))
            turns[name] += 1
    # Sorting is stable: within a turn the heaviest stay first.
    selected = [s for _, s in sorted(ranked, key=lambda pair: pair[0])[:most]]
    return tuple(sorted(selected, key=lambda s: s.label))


def _slug(name: str, number: int, names: Iterable[str]) -> str:
    """Return a workload's name as a unique part of a file name."""

    def plain(text: str) -> str:
        return "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in text)

    slug = plain(name).lower()
    unique = [plain(other).lower() for other in names].count(slug) == 1
    return slug if unique else f"{slug}-{number}"


def grouped(items: Iterable[T], key: Callable[[T], str]) -> list[tuple[str, list[T]]]:
    """Return items grouped by key, keys ascending, the order of items preserved."""
    groups: defaultdict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return sorted(groups.items())
