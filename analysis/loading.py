"""Records of files as a DataFrame."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from analysis.errors import AnalysisError
from analysis.frame import frame
from bench.records.reading import read_all_records

# Path of a file, or of a folder whose files are read.
Source = str | Path


def load(source: Source | Iterable[Source]) -> pd.DataFrame:
    """Return the records of JSON Lines files as a DataFrame; see `analysis.frame`.

    Repetitions of a record are left out; records of the earlier schema are migrated.

    Args:
        source: A file, a folder whose ``.jsonl`` files are read, or several of both.

    Raises:
        AnalysisError: A path cannot be read, a line is not a record (file and line are named), or
            there are no records.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    try:
        reading = read_all_records(map(Path, sources))
    except ImportError as error:
        raise AnalysisError(
            f"records need {error.name}: pip install 'foldperf[analysis]'"
        ) from None
    if reading.errors:
        raise AnalysisError(str(reading.errors[0]))
    records = reading.records
    if not records:
        named = ", ".join(map(str, sources)) or "an empty list"
        raise AnalysisError(f"{named}: no records; run a sweep, or name a file of records")
    return frame(records)
