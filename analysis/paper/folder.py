"""All figures of the paper, written into a folder."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from analysis.drawing import save
from analysis.errors import AnalysisError
from analysis.paper.catalogue import FIGURES, PaperFigure
from analysis.paper.selection import MissingRecordsError, noting_records
from bench.records.record import RecordJson

FORMATS = ("pdf", "png")
CAPTIONS = "captions.md"


class Drawn(NamedTuple):
    """Outcome of `write_paper`.

    Attributes:
        figures: Names of the figures that were written.
        missing: A sentence on each figure that was not.
    """

    figures: list[str]
    missing: list[str]


def write_paper(
    table: pd.DataFrame, folder: Path, figures: Sequence[PaperFigure] = FIGURES
) -> Drawn:
    """Write each figure as PDF and PNG, and the captions; files depend on the records alone.

    Args:
        table: Records, as the DataFrame of `analysis.frame`.
        folder: Output folder.
        figures: Figures to write.

    Raises:
        AnalysisError: The folder cannot be written.
    """
    drawn: list[str] = []
    missing: list[str] = []
    captions = ["# Figures", ""]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            try:
                with noting_records() as used:
                    plot = figure.draw(table)
            except MissingRecordsError as error:
                missing.append(f"{figure.name} is not drawn ({error}); run: {figure.command}")
                for suffix in FORMATS:
                    (folder / f"{figure.name}.{suffix}").unlink(missing_ok=True)
                continue
            source = source_of(list(used.values()), figure.sources)
            width = plot.get_size_inches()[0]
            save(plot, folder, figure.name, source.summary, FORMATS, keywords=source.hashes)
            drawn.append(figure.name)
            captions += [
                f"## {figure.title}",
                "",
                f"`{figure.name}`, {width:.2f} in wide. {figure.caption}",
                "",
                f"{source.summary}; made by `{figure.command}`.",
                "",
            ]
        (folder / CAPTIONS).write_text("\n".join(captions), encoding="utf-8")
    except OSError as error:
        raise AnalysisError(f"{error.filename or folder}: {error.strerror}") from None
    return Drawn(drawn, missing)


class Source(NamedTuple):
    """Origin of a figure.

    Attributes:
        summary: Number, common hash and commits of its records.
        hashes: Beginning of the hash of each record and file.
    """

    summary: str
    hashes: str


def source_of(records: Sequence[RecordJson], files: Sequence[Path] = ()) -> Source:
    """Return the origin of a figure: the hashes of its records and other files, and the commits."""
    contents = [json.dumps(record, sort_keys=True).encode() for record in records]
    contents += [path.read_bytes() for path in files if path.exists()]
    hashes = sorted(hashlib.sha256(content).hexdigest() for content in contents)
    digest = hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
    commits = sorted({(record["git"]["sha"] or "unknown")[:12] for record in records})
    names = [f"{len(records)} records"] * bool(records)
    names += [path.name for path in files]
    of_commits = f" of commit {', '.join(commits)}" if commits else ""
    return Source(f"{', '.join(names)}, hash {digest}{of_commits}", " ".join(h[:8] for h in hashes))
