"""Analysis of records: the DataFrame of records, tables, fits, figures, the HTML report.

The input is records alone, through their schema in `bench.records.record`: nothing here runs a
case, and nothing else of the project is imported.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def load_records(source: "str | Path | Iterable[str | Path]") -> "pd.DataFrame":
    """Return the records of JSON Lines files as a DataFrame: a row each, see `analysis.frame`.

    What records nest (samples, parts, breakdowns) is returned by the functions of
    `analysis.nested`, which take the DataFrame or a selection of its rows.

    Args:
        source: A file, a folder whose ``.jsonl`` files are read, or several of both.

    Raises:
        AnalysisError: A path cannot be read, a line is not a record (file and line are named),
            there are no records, or pandas is not installed.
    """
    # Measuring processes import this package for its errors, and have no pandas.
    from analysis.errors import AnalysisError

    try:
        from analysis.loading import load
    except ImportError as error:
        raise AnalysisError(
            f"DataFrames need {error.name}: pip install 'foldperf[analysis]'"
        ) from None
    return load(source)
