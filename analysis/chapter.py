"""Chapters of the report: figures of one subject, with their numbers and findings."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.series import Series, Share
from analysis.table import as_csv

# Prefix of a reason that comes from one of a case's ranks.
_RANK = re.compile(r"^rank \d+: ")


@dataclass(frozen=True, slots=True)
class Figure:
    """Figure of a chapter, to be plotted by `draw`.

    Attributes:
        name: File name without suffix; begins with the chapter's name.
        title: Title in one line.
        findings: Sentences on the figure.
        draw: Function that returns the matplotlib figure.
        note: Remark for the reader, as on series that are left out; empty if there is none.
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
        name: File name of the chapter's numbers, without suffix.
        title: Title in one line.
        meaning: Explanation of the figures.
        table: All numbers, those left out of the figures for lack of room included; None if
            there are none.
        figures: Figures; empty if there is nothing to plot.
        notes: Sentences on quantities that are not plotted, with the reason.
    """

    name: str
    title: str
    meaning: str
    table: pd.DataFrame | None = field(default=None, repr=False, compare=False)
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()

    def csv(self) -> str:
        """Return the chapter's numbers as CSV; empty if there are none."""
        return "" if self.table is None else as_csv(self.table)


def figure_name(chapter: str, share: Share) -> str:
    """Return the file name, without suffix, of a chapter's figure of `share`."""
    return f"{chapter}-{share.suffix}" if share.suffix else chapter


def figure_title(title: str, share: Share) -> str:
    """Return the title of a chapter's figure of `share`."""
    return f"{title}: {share.subject}" if share.subject else title


def figure_note(share: Share, chapter: str) -> str:
    """Return a note on the series that a figure leaves out; empty if it shows all."""
    if not share.left_out:
        return ""
    return f"{share.left_out} more series did not fit and are in {chapter}.csv alone."


def missing_note(subject: str, metric: str, series: Iterable[Series]) -> str:
    """Return a sentence on an absent metric, with the reasons that its records give."""
    rows = [row for s in series for row in s.rows]
    reasons = Counter(
        _RANK.sub("", reason)
        for row in rows
        if (reason := row.reason_of(metric)) and row.value(metric) is None
    )
    if not reasons:
        return f"{subject} is not plotted: no record has {metric}."
    quoted = "; ".join(
        f"{reason} ({count_of(n, 'record')})" for reason, n in reasons.most_common(3)
    )
    return f"{subject} is not plotted: {quoted}."


def count_of(number: int, noun: str) -> str:
    """Return the number with its noun: ``1 record``, ``2 records``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    """Return the words as a list in prose: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
