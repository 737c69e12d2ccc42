"""Report of records: tables, figures and one self-contained HTML page."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.calls import calls_chapters
from analysis.chapter import Chapter, Figure
from analysis.context_ranks import context_chapter
from analysis.curves import Line
from analysis.device_check import rates_chapter, roofline_chapter
from analysis.drawing import FORMATS, save
from analysis.errors import AnalysisError
from analysis.frame import frame
from analysis.growth import (
    PEAK_MEMORY,
    STEP_TIME,
    exponent_table,
    exponents,
    growth_chapter,
)
from analysis.memory import module_chapter, state_chapter
from analysis.page.front import Front
from analysis.page.records import compressed, record_rows
from analysis.page.render import (
    chapter_content,
    image_content,
    machines,
    missing_metrics,
    render,
)
from analysis.phases import phase_chapter
from analysis.published import (
    FOLDER,
    PublishedSeries,
    comparable,
    on_accelerators,
    published_table,
    read_published,
    references,
)
from analysis.ranks import rank_chapter
from analysis.series import Series, series_of
from analysis.table import as_csv, exported, newest, rows
from analysis.utilization import ENERGY, UTILIZATION, utilization_chapter
from bench.records.record import RecordJson

PAGE = "index.html"
# List of written files, so that the next report removes them from the folder.
MANIFEST = "files.json"


def write_report(
    records: Sequence[RecordJson],
    folder: Path,
    *,
    published: Path = FOLDER,
    always_published: bool = False,
    unmeasured: Sequence[str] = (),
    front: Front | None = None,
) -> Path:
    """Write ``index.html``, the tables as CSV, and the figures; return the page's path.

    Only the newest record of each case and machine is shown.

    Args:
        records: Valid records.
        folder: Output folder.
        published: Folder of published numbers; need not exist.
        always_published: Whether published numbers are plotted even if no record is of an
            accelerator.
        unmeasured: Sentences on cases of sweeps that are not measured.
        front: Findings at full size, from recorded traces; none by default.

    Raises:
        AnalysisError: There are no records, a library is missing, a file of published numbers
            violates its schema, or the folder cannot be written.
    """
    if not records:
        raise AnalysisError("no records to report on; run a sweep first")
    try:
        import jinja2  # noqa: F401
        import jsonschema  # noqa: F401
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise AnalysisError(
            f"reports need {error.name}: pip install 'foldperf[analysis]'"
        ) from None
    received = len(records)
    table = newest(frame(records))
    records, cases = table["record"].tolist(), rows(table)
    source = _source(records)
    all_published = read_published(published)
    front = front or Front()
    plotted = comparable(all_published, cases) if always_published or on_accelerators(cases) else []
    series = series_of(table)
    chapters = _chapters(series, table, plotted)
    growth = exponents(series, (PEAK_MEMORY, STEP_TIME))
    known = {record["run_id"] for record in records}
    recorded = [record for record in front.records if record["run_id"] not in known]
    listed = [*record_rows(table), *(record_rows(frame(recorded)) if recorded else ())]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_previous(folder)
        tables = _tables(table, growth, all_published, chapters)
        for name, text in tables.items():
            (folder / name).write_text(text, encoding="utf-8")
        origin = _source(front.records)
        page = render(
            rows=listed,
            front=front,
            findings=[
                {
                    "finding": f,
                    "image": _image(f.name, f.draw, f"{f.title}. {f.text}", folder, origin),
                }
                for f in front.findings
            ],
            chapters=[
                chapter_content(
                    chapter, [_figure(f, folder, source) for f in chapter.figures], listed
                )
                for chapter in chapters
                if chapter.figures
            ],
            not_plotted=[chapter for chapter in chapters if not chapter.figures],
            growth=growth,
            data=compressed([*records, *recorded], [c for c in chapters if c.figures]),
            statuses=sorted(Counter(case.status for case in cases).items()),
            source=source,
            superseded=received - len(records),
            missing=missing_metrics(records),
            machines=machines([*records, *recorded]),
            published=all_published,
            published_shown=bool(plotted),
            unmeasured=unmeasured,
        )
        (folder / PAGE).write_text(page, encoding="utf-8")
        names = [f.name for f in front.findings]
        names += [f.name for chapter in chapters for f in chapter.figures]
        figure_files = [f"{name}.{suffix}" for name in names for suffix in FORMATS]
        _write_manifest(folder, source, [PAGE, *tables, *figure_files])
    except OSError as error:
        raise AnalysisError(f"{error.filename or folder}: {error.strerror}") from None
    return folder / PAGE


def _chapters(
    series: Sequence[Series], table: pd.DataFrame, plotted: Sequence[PublishedSeries]
) -> list[Chapter]:
    """Return all chapters in the order of the page."""
    fitted = (
        "Both axes are logarithmic. Exponents are fitted to the largest sizes, the shade is the "
        "95 % interval of the fit, and short grey lines show slopes 1, 2 and 3. A cross marks a "
        "size that failed."
    )
    return [
        growth_chapter(
            series,
            PEAK_MEMORY,
            "Peak memory over tokens",
            f"{fitted} On an accelerator this is the peak of the caching allocator, on a CPU the "
            "high-water mark of the process above its start.",
            references(plotted, PEAK_MEMORY),
        ),
        growth_chapter(
            series,
            STEP_TIME,
            "Step time over tokens",
            f"{fitted} All phases of a step count; vertical bars are the interval of the median.",
            references(plotted, STEP_TIME),
        ),
        state_chapter(series),
        module_chapter(series),
        *calls_chapters(series),
        phase_chapter(series),
        utilization_chapter(
            series,
            UTILIZATION,
            "Model FLOPs exclude recomputation, hardware FLOPs include it; utilization is either "
            "rate divided by the device's peak rate. Busy time counts any running kernel, fast or "
            "slow.",
        ),
        utilization_chapter(series, ENERGY, "Gross energy per step, and mean power."),
        rank_chapter(table),
        context_chapter(table),
        *(
            chapter
            for chapter in (rates_chapter(table), roofline_chapter(table))
            if chapter.table is not None
        ),
    ]


def _tables(
    table: pd.DataFrame,
    growth: Sequence[Sequence[Line]],
    published: Sequence[PublishedSeries],
    chapters: Sequence[Chapter],
) -> dict[str, str]:
    """Return all tables as CSV, by file name."""
    tables = {"table.csv": as_csv(exported(table))}
    if growth:
        tables["exponents.csv"] = as_csv(exponent_table(law for laws in growth for law in laws))
    if published:
        tables["published.csv"] = as_csv(published_table(published))
    return tables | {
        f"{chapter.name}.csv": chapter.csv() for chapter in chapters if chapter.figures
    }


def _write_manifest(folder: Path, source: str, names: Sequence[str]) -> None:
    content = {"source": source, "files": sorted(names)}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _remove_previous(folder: Path) -> None:
    """Remove the files that an earlier report wrote into the folder, and no others."""
    try:
        names = json.loads((folder / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        if isinstance(name, str) and Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def _source(records: Sequence[RecordJson]) -> str:
    """Return the number, hash and commits of the records, as text."""
    digest = hashlib.sha256("\n".join(sorted(r["run_id"] for r in records)).encode()).hexdigest()
    commits = sorted({(r["git"]["sha"] or "unknown")[:8] for r in records})
    return f"{len(records)} records {digest[:12]} of commit {', '.join(commits)}"


def _figure(figure: Figure, folder: Path, source: str) -> dict[str, Any]:
    """Write a chapter's figure and return its fields for the page's template."""
    alt = " ".join((f"{figure.title}.", *figure.findings[:2]))
    return {"figure": figure, **_image(figure.name, figure.draw, alt, folder, source)}


def _image(
    name: str, draw: Callable[[], Any], alt: str, folder: Path, source: str
) -> dict[str, Any]:
    """Write a figure and return the fields of its image for the page's template."""
    plot = draw()
    inches = plot.get_size_inches()[0]
    save(plot, folder, name, source)
    return image_content(folder / f"{name}.png", inches, alt)
