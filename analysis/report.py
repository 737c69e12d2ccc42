"""Report of records: tables, figures and one self-contained HTML page."""

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
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
from analysis.table import Row, as_csv, exported, newest, rows
from analysis.utilization import ENERGY, UTILIZATION, utilization_chapter
from bench.records.record import RecordJson

TEMPLATE = Path(__file__).with_name("report.html.j2")
PAGE = "index.html"
# List of written files, so that the next report removes them from the folder.
MANIFEST = "files.json"
# Colours of the page's images: enough for lines, hatches and letters at a third of the size.
_PALETTE = 96


def write_report(
    records: Sequence[RecordJson],
    folder: Path,
    *,
    published: Path = FOLDER,
    always_published: bool = False,
    unmeasured: Sequence[str] = (),
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
    plotted = comparable(all_published, cases) if always_published or on_accelerators(cases) else []
    series = series_of(table)
    chapters = _chapters(series, table, plotted)
    growth = exponents(series, (PEAK_MEMORY, STEP_TIME))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_previous(folder)
        tables = _tables(table, growth, all_published, chapters)
        for name, text in tables.items():
            (folder / name).write_text(text, encoding="utf-8")
        page = _page(
            chapters=[
                {
                    "chapter": chapter,
                    "figures": [_image(f, folder, source) for f in chapter.figures],
                }
                for chapter in chapters
                if chapter.figures
            ],
            not_plotted=[chapter for chapter in chapters if not chapter.figures],
            growth=growth,
            rows=cases,
            source=source,
            superseded=received - len(records),
            missing=_missing(records),
            machines=_machines(records),
            published=all_published,
            published_shown=bool(plotted),
            unmeasured=unmeasured,
        )
        (folder / PAGE).write_text(page, encoding="utf-8")
        figure_files = [
            f"{f.name}.{suffix}" for c in chapters for f in c.figures for suffix in FORMATS
        ]
        _write_manifest(folder, source, [PAGE, *tables, *figure_files])
    except OSError as error:
        raise AnalysisError(f"{error.filename or folder}: {error.strerror}") from None
    return folder / PAGE


def _page(*, rows: Sequence[Row], **content: Any) -> str:
    """Return the page, rendered from the template."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        **content,
        rows=rows,
        statuses=sorted(Counter(row.status for row in rows).items()),
        several_ranks=any(row.ranks > 1 for row in rows),
    )


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


def _image(figure: Figure, folder: Path, source: str) -> dict[str, Any]:
    """Write a figure and return its fields for the page's template."""
    from PIL import Image

    plot = figure.draw()
    inches = plot.get_size_inches()[0]
    save(plot, folder, figure.name, source)
    small = io.BytesIO()
    with Image.open(folder / f"{figure.name}.png") as image:
        width, height = image.size
        few = image.convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE)
        few.save(small, "png", optimize=True)
    return {
        "figure": figure,
        "image": base64.b64encode(small.getvalue()).decode(),
        "width": width,
        "height": height,
        "wide": inches > 4,
        "rem": round(8.2 * inches),
        "alt": " ".join((f"{figure.title}.", *figure.findings[:2])),
    }


def _missing(records: Sequence[RecordJson]) -> list[tuple[str, str]]:
    """Return the metrics that no record has, each with the reason of the last record."""
    reasons: dict[str, str] = {}
    measured: set[str] = set()
    for record in records:
        for name, value in record["metrics"].items():
            if value["value"] is None:
                reasons[name] = value["reason"]
            else:
                measured.add(name)
    return sorted((name, reason) for name, reason in reasons.items() if name not in measured)


def _machines(records: Sequence[RecordJson]) -> list[dict[str, Any]]:
    """Return the machines and software of the records, with the number of records."""
    groups: Counter[tuple[str, ...]] = Counter()
    for record in records:
        host, software = record["host"], record["software"]
        devices = Counter(device["name"] for device in record["devices"])
        groups[
            ", ".join(f"{n} × {name}" if n > 1 else name for name, n in sorted(devices.items())),
            f"{host['cpu']}, {host['cores']} cores, {host['memory_bytes'] / 2**30:.0f} GiB",
            f"python {software['python']}, torch {software['torch']}",
            (record["git"]["sha"] or "unknown")[:12] + ("*" if record["git"]["dirty"] else ""),
        ] += 1
    names = ("device", "host", "software", "commit")
    return [
        dict(zip(names, key, strict=True)) | {"records": count}
        for key, count in sorted(groups.items())
    ]
