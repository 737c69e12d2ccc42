"""Figures of the paper, drawn from recorded runs.

`analysis.paper.catalogue` lists them: the name, the records that each needs, the command that makes
those, the caption and the function that draws it. The other modules draw the figures of one subject
each. `draw` returns one figure as matplotlib's; `analysis.paper.folder` writes all of them.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from bench.records.record import Record, RecordJson


def draw(name: str, records: "pd.DataFrame | Iterable[Record | RecordJson]") -> Any:
    """Return a figure of the paper by its name.

    Args:
        name: Name in `analysis.paper.catalogue.FIGURES`, such as ``peak_memory``.
        records: Records, as a DataFrame or one by one.

    Raises:
        AnalysisError: No figure has that name, or its records are missing.
    """
    from analysis.paper.catalogue import figure_named
    from analysis.paper.selection import as_table

    return figure_named(name).draw(as_table(records))
