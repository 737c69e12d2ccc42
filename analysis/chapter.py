"""Chapters of the report: figures of one subject, their numbers, and what they say."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.series import Series, Share
from analysis.table import Cell, as_csv

# Which of a case's ranks said so.
_RANK = re.compile(r"^rank \d+: ")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, not yet drawn.

    Attributes:
        name: File name without suffix; begins with its chapter's.
        title: One line.
        findings: A sentence each.
        draw: Makes the matplotlib figure.
        note: What a reader of it should know, as in series that are left out.
    """

    name: str
    title: str
    findings: tuple[str, ...]
    draw: Callable[[], Any]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Chapter:
    """Figures of one subject.

    Attributes:
        name: File name of its numbers, without suffix.
        title: One line.
        meaning: What is drawn, and how to read it.
        columns: Names of its numbers' columns.
        lines: Its numbers: all that is drawn, and what would be but for lack of room.
        figures: None if there is nothing to draw.
        notes: What could not be drawn, and why.
    """

    name: str
    title: str
    meaning: str
    columns: tuple[str, ...] = ()
    lines: tuple[tuple[Cell, ...], ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    def csv(self) -> str:
        """Its numbers as CSV."""
        return as_csv(self.columns, self.lines)


def figure_name(chapter: str, share: Share) -> str:
    """The file name of a chapter's figure of some series."""
    return f"{chapter}-{share.suffix}" if share.suffix else chapter


def figure_title(title: str, share: Share) -> str:
    """The title of a chapter's figure of some series."""
    return f"{title}: {share.what}" if share.what else title


def figure_note(share: Share, chapter: str) -> str:
    """Says that a figure does not show everything, if so."""
    if not share.left_out:
        return ""
    return f"{share.left_out} more of these series are in {chapter}.csv, for want of room."


def why_missing(what: str, metric: str, series: Iterable[Series]) -> str:
    """A sentence on why a metric is not there: the reasons of the records that lack it."""
    rows = [row for each in series for row in each.rows]
    reasons = Counter(
        _RANK.sub("", reason)
        for row in rows
        if (reason := row.reason_of(metric)) and row.value(metric) is None
    )
    if not reasons:
        return f"{what} is not drawn: no record has {metric}."
    told = "; ".join(f"{reason} ({count_of(n, 'record')})" for reason, n in reasons.most_common(3))
    return f"{what} is not drawn: {told}."


def count_of(number: int, noun: str) -> str:
    """``1 record``, ``2 records``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
