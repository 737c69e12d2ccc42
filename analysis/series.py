"""Series: the rows that make one line of a figure, and which of them share a figure."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from analysis.table import Cell, Row

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Series:
    """Rows of one thing measured one way on one kind of device, over sizes.

    Attributes:
        label: What tells it from all others of the report.
        rows: Its rows, sizes ascending.
    """

    label: str
    rows: tuple[Row, ...]

    @property
    def identity(self) -> tuple[Cell, ...]:
        """The values of the identity columns, which all its rows share."""
        return self.rows[0].identity

    @property
    def workload(self) -> str:
        """The workload's name."""
        return self.rows[0].workload

    def well(self) -> list[Row]:
        """The rows that ended well and have a size."""
        return [row for row in self.rows if row.status == "ok" and row.tokens > 0]

    def sizes(self) -> list[float]:
        """The sizes of those, ascending."""
        return sorted({row.tokens for row in self.well()})

    def typical(self, value: Callable[[Row], float | None]) -> list[Row]:
        """One row of each size: the one whose value is the median of those that have one."""
        chosen = []
        for size in self.sizes():
            rows = [row for row in self.well() if row.tokens == size]
            ranked = sorted((v, k) for k, row in enumerate(rows) if (v := value(row)) is not None)
            if ranked:
                chosen.append(rows[ranked[(len(ranked) - 1) // 2][1]])
        return chosen


@dataclass(frozen=True, slots=True)
class Share:
    """The series that share a figure.

    Attributes:
        suffix: Of the figure's file name; empty for the first.
        what: Whose they are, for people; empty if everything is there.
        series: Which have room.
        everything: Which there would be.
    """

    suffix: str
    what: str
    series: tuple[Series, ...]
    everything: tuple[Series, ...]

    @property
    def left_out(self) -> int:
        """How many have no room."""
        return len(self.everything) - len(self.series)


def series_of(rows: Iterable[Row]) -> list[Series]:
    """The series that rows make: by workload, series, variant, device and ranks."""
    groups: defaultdict[tuple[Cell, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.identity].append(row)
    members = [sorted(group, key=lambda row: row.tokens) for group in groups.values()]
    names = labels([group[0] for group in members])
    return [Series(name, tuple(group)) for name, group in zip(names, members, strict=True)]


def labels(rows: Sequence[Row], *, named: bool = True) -> list[str]:
    """What tells each row's series from the others': its name, and what they do not share.

    Args:
        rows: One row of each series.
        named: Whether the name is said; without it, it is where nothing else differs.
    """
    items = [[item for item in row.variant.split(", ") if item] for row in rows]
    shared = set.intersection(*map(set, items)) if items else set()
    devices = len({row.device for row in rows}) > 1
    found = []
    for row, parts in zip(rows, items, strict=True):
        details = [", ".join(part for part in parts if part not in shared)]
        details += [row.device] if devices else []
        details += [f"{row.ranks} ranks"] if row.ranks > 1 else []
        detail = "; ".join(filter(None, details))
        if named:
            found.append(f"{row.series} ({detail})" if detail else row.series)
        else:
            found.append(detail or row.series)
    # Two workloads may call a series the same.
    return [
        f"{row.workload}: {label}" if found.count(label) > 1 else label
        for row, label in zip(rows, found, strict=True)
    ]


def shares(
    series: Sequence[Series], most: int, weight: Callable[[Series], float] | None = None
) -> list[Share]:
    """Spreads series over figures of at most `most` each.

    If they do not fit into one, the first holds one for each workload and device, and each
    workload that has more has a figure of its own; what does not fit there is left out and
    counted.

    Args:
        series: All that have something to show.
        most: How many a figure may hold.
        weight: Of a workload's own series those with the largest are kept; by default, and for
            the first figure, those with the most sizes, the largest, and the fewest ranks.
    """
    if len(series) <= most:
        return [Share("", "", tuple(series), tuple(series))] if series else []
    widest = sorted(series, key=_order)
    heaviest = sorted(widest, key=weight, reverse=True) if weight else widest
    by_workload = dict(grouped(series, lambda s: s.workload))
    if len(by_workload) == 1:
        return [Share("", "", _kept(series, heaviest, most), tuple(series))]
    firsts: dict[tuple[str, str], Series] = {}
    # By their sizes alone, so that the same ones stand for a workload in every chapter.
    for each in widest:
        firsts.setdefault((each.workload, each.rows[0].device), each)
    everything = tuple(sorted(firsts.values(), key=lambda each: each.label))
    chosen = _kept(everything, widest, most)
    found = [Share("", "one of each workload", chosen, everything)]
    shown = {id(each) for each in chosen}
    for number, (name, members) in enumerate(sorted(by_workload.items())):
        if any(id(each) not in shown for each in members):
            kept = _kept(members, heaviest, most)
            found.append(Share(_slug(name, number, by_workload), name, kept, tuple(members)))
    return found


def _order(series: Series) -> tuple[object, ...]:
    sizes = series.sizes()
    return -len(sizes), -max(sizes, default=0.0), series.rows[0].ranks, series.label


def _kept(members: Sequence[Series], heaviest: Sequence[Series], most: int) -> tuple[Series, ...]:
    """The heaviest of some by label, of each name one before another."""
    there = {id(each) for each in members}
    seen: Counter[str] = Counter()
    ranked = []
    for each in heaviest:
        if id(each) in there:
            name = each.rows[0].series
            ranked.append((seen[name], each))
            seen[name] += 1
    # Sorting is stable: within a turn the heaviest stay first.
    chosen = [each for _, each in sorted(ranked, key=lambda pair: pair[0])[:most]]
    return tuple(sorted(chosen, key=lambda each: each.label))


def _slug(name: str, number: int, names: Iterable[str]) -> str:
    """A workload's name as a part of a file name, told apart from the others'."""

    def plain(text: str) -> str:
        return "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in text)

    slug = plain(name).lower()
    unique = [plain(other).lower() for other in names].count(slug) == 1
    return slug if unique else f"{slug}-{number}"


def grouped(items: Iterable[T], key: Callable[[T], str]) -> list[tuple[str, list[T]]]:
    """Items by a key, keys ascending, items in their order."""
    groups: defaultdict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return sorted(groups.items())
