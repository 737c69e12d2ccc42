"""The report: tables, figures and one self-contained HTML page, from records alone."""

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.calls import calls_chapters
from analysis.chapter import Chapter, Figure
from analysis.curves import Line
from analysis.device_check import rates_chapter, roofline_chapter
from analysis.drawing import FORMATS, save
from analysis.errors import AnalysisError
from analysis.growth import (
    EXPONENT_COLUMNS,
    PEAK_MEMORY,
    STEP_TIME,
    exponent_lines,
    exponents,
    growth_chapter,
)
from analysis.memory import module_chapter, state_chapter
from analysis.phases import phase_chapter
from analysis.published import COLUMNS as PUBLISHED_COLUMNS
from analysis.published import (
    FOLDER,
    PublishedSeries,
    comparable,
    on_accelerators,
    published_lines,
    read_published,
    references,
)
from analysis.ranks import rank_chapter
from analysis.series import Series, series_of
from analysis.table import Row, as_csv, cases_as_csv, newest, rows
from analysis.utilization import ENERGY, UTILIZATION, use_chapter
from bench.records.record import RecordJson

TEMPLATE = Path(__file__).with_name("report.html.j2")
PAGE = "index.html"
# What a report wrote, so that the next one into its folder leaves nothing of it behind.
MANIFEST = "files.json"
# Of the page's images: enough for lines, hatches and letters, and a third of the size.
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

    Of several records of one case on one machine, the newest is shown.

    Args:
        records: Valid records.
        folder: Where to.
        published: The folder of published numbers; there may be none.
        always_published: Whether they are drawn where no record is of an accelerator, too.
        unmeasured: Sentences on the cases that sweeps lack.

    Raises:
        AnalysisError: there are no records, a library is missing, a file of published numbers is
            not as its schema says, or the folder cannot be written.
    """
    if not records:
        raise AnalysisError("no records to report on; run a sweep first")
    try:
        import jinja2  # noqa: F401
        import jsonschema  # noqa: F401
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise AnalysisError(f"reports need {error.name}: pip install 'foldperf[report]'") from None
    given = len(records)
    records = newest(records)
    table = rows(records)
    source = _source(records)
    others = read_published(published)
    shown = comparable(others, table) if always_published or on_accelerators(table) else []
    series = series_of(table)
    chapters = _chapters(series, table, shown)
    growth = exponents(series, (PEAK_MEMORY, STEP_TIME))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_former(folder)
        tables = _tables(table, growth, others, chapters)
        for name, text in tables.items():
            (folder / name).write_text(text, encoding="utf-8")
        page = _page(
            chapters=[
                {"chapter": each, "figures": [_image(f, folder, source) for f in each.figures]}
                for each in chapters
                if each.figures
            ],
            undrawn=[each for each in chapters if not each.figures],
            growth=growth,
            rows=table,
            source=source,
            superseded=given - len(records),
            missing=_missing(records),
            machines=_machines(records),
            published=others,
            published_shown=bool(shown),
            unmeasured=unmeasured,
        )
        (folder / PAGE).write_text(page, encoding="utf-8")
        drawn = [f"{f.name}.{suffix}" for c in chapters for f in c.figures for suffix in FORMATS]
        _write_manifest(folder, source, [PAGE, *tables, *drawn])
    except OSError as error:
        raise AnalysisError(f"{error.filename or folder}: {error.strerror}") from None
    return folder / PAGE


def _page(*, rows: Sequence[Row], **content: Any) -> str:
    """The template, filled in."""
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
    series: Sequence[Series], table: Sequence[Row], shown: Sequence[PublishedSeries]
) -> list[Chapter]:
    """Every chapter, in the page's order."""
    fitted = (
        "Logarithmic both ways; the exponent is fitted to the largest sizes, the shade is its 95 % "
        "interval, and short grey lines show slopes 1, 2 and 3. A cross marks a size that failed."
    )
    return [
        growth_chapter(
            series,
            PEAK_MEMORY,
            "Peak memory against tokens",
            f"{fitted} An accelerator's is its allocator's peak, a CPU's the high-water mark of "
            "the process above its start.",
            references(shown, PEAK_MEMORY),
        ),
        growth_chapter(
            series,
            STEP_TIME,
            "Step time against tokens",
            f"{fitted} All phases of a step count; bars are the interval of a case's median.",
            references(shown, STEP_TIME),
        ),
        state_chapter(series),
        module_chapter(series),
        *calls_chapters(series),
        phase_chapter(series),
        use_chapter(
            series,
            UTILIZATION,
            "Model FLOPs leave recomputation out, hardware FLOPs do not; each over the device's "
            "peak is its utilization. Busy time says that something ran, not that it was fast.",
        ),
        use_chapter(series, ENERGY, "Gross energy of a step, and the mean power meanwhile."),
        rank_chapter(table),
        *(chapter for chapter in (rates_chapter(table), roofline_chapter(table)) if chapter.lines),
    ]


def _tables(
    table: Sequence[Row],
    growth: Sequence[Sequence[Line]],
    others: Sequence[PublishedSeries],
    chapters: Sequence[Chapter],
) -> dict[str, str]:
    """Every table as CSV, by file name."""
    found = {"table.csv": cases_as_csv(table)}
    fitted = [each for lines in growth for each in exponent_lines(lines)]
    if fitted:
        found["exponents.csv"] = as_csv(EXPONENT_COLUMNS, fitted)
    if others:
        found["published.csv"] = as_csv(PUBLISHED_COLUMNS, published_lines(others))
    return found | {f"{each.name}.csv": each.csv() for each in chapters if each.figures}


def _write_manifest(folder: Path, source: str, names: Sequence[str]) -> None:
    content = {"source": source, "files": sorted(names)}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _remove_former(folder: Path) -> None:
    """Removes what an earlier report wrote into the folder, and nothing else."""
    try:
        names = json.loads((folder / MANIFEST).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        if isinstance(name, str) and Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def _source(records: Sequence[RecordJson]) -> str:
    """Hash of the records, and the commits that they come from."""
    digest = hashlib.sha256("\n".join(sorted(r["run_id"] for r in records)).encode()).hexdigest()
    commits = sorted({(r["git"]["sha"] or "unknown")[:8] for r in records})
    return f"{len(records)} records {digest[:12]} of commit {', '.join(commits)}"


def _image(figure: Figure, folder: Path, source: str) -> dict[str, Any]:
    """Writes a figure, and gives what the page shows of it."""
    from PIL import Image

    drawn = figure.draw()
    inches = drawn.get_size_inches()[0]
    save(drawn, folder, figure.name, source)
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
    """Metrics that no record has, with the reason that the last one gives."""
    reasons: dict[str, str] = {}
    found: set[str] = set()
    for record in records:
        for name, value in record["metrics"].items():
            if value["value"] is None:
                reasons[name] = value["reason"]
            else:
                found.add(name)
    return sorted((name, reason) for name, reason in reasons.items() if name not in found)


def _machines(records: Sequence[RecordJson]) -> list[dict[str, Any]]:
    """Each machine and software that records come from, and how many."""
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
