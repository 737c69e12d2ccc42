"""Rendering of the page from its template, style and script: one file without outside resources."""

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.chapter import Chapter
from analysis.curves import Line
from analysis.page.front import Front
from analysis.page.numbers import derived
from analysis.page.records import COLUMNS, RecordRow, choices
from analysis.paper.paper_cases import PAPER_CASES
from bench.records.record import RecordJson

_FOLDER = Path(__file__).with_name("template")
# Colours of the page's images: enough for lines, hatches and letters at a third of the size.
_PALETTE = 96


def render(
    *,
    rows: Sequence[RecordRow],
    front: Front,
    chapters: Sequence[Mapping[str, Any]],
    growth: Sequence[Sequence[Line]],
    **content: Any,
) -> str:
    """Return the page.

    Args:
        rows: Rows of the table of records.
        front: Findings, and the comparison with repeated traces.
        chapters: Chapters with their images: see `chapter_content`.
        growth: Lines with fitted laws, by series.
        content: Other variables of the template.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    exponents = _exponents(growth, rows)
    return environment.from_string(_read("page.html.j2")).render(
        **content,
        style=_read("style.css"),
        script=_read("script.js"),
        rows=rows,
        columns=COLUMNS,
        choices=choices(rows),
        several_ranks=any(row.ranks > 1 for row in rows),
        recorded=front.origins,
        missing_findings=front.missing,
        recording_command=PAPER_CASES,
        agreements=front.agreements,
        compared=f"{sum(a.compared for a in front.agreements):,}",
        disagreements=front.disagreements,
        chapters=chapters,
        growth=exponents,
        growth_runs=_joined(line["runs"] for line in exponents),
    )


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8").strip()


def chapter_content(
    chapter: Chapter, images: Sequence[Mapping[str, Any]], rows: Sequence[RecordRow]
) -> dict[str, Any]:
    """Return the fields of a chapter for the template.

    Args:
        chapter: Chapter.
        images: Fields of its figures' images.
        rows: Rows of the table of records, which the page filters.
    """
    table = chapter.table
    runs: list[str] = []
    if table is not None and "run_id" in table:
        runs = [str(run) for run in table["run_id"].dropna()]
    known = set(runs)
    return {
        "chapter": chapter,
        "figures": images,
        "runs": _positions(runs, rows),
        "methods": sorted({row.method for row in rows if row.run_id in known}),
        "lines": 0 if table is None else len(table),
    }


def image_content(path: Path, inches: float, alt: str) -> dict[str, Any]:
    """Return the fields of an image for the template, read from a PNG file.

    Args:
        path: Written figure.
        inches: Its width.
        alt: Alternative text.
    """
    from PIL import Image

    small = io.BytesIO()
    with Image.open(path) as image:
        width, height = image.size
        few = image.convert("RGB").quantize(_PALETTE, dither=Image.Dither.NONE)
        few.save(small, "png", optimize=True)
    return {
        "image": base64.b64encode(small.getvalue()).decode(),
        "width": width,
        "height": height,
        "wide": inches > 4,
        "rem": round(8.2 * inches),
        "alt": alt,
    }


def _exponents(growth: Sequence[Sequence[Line]], rows: Sequence[RecordRow]) -> list[dict[str, Any]]:
    """Return the fitted exponents, each with the records that it is fitted to."""
    lines = []
    for line in (line for fitted in growth for line in fitted):
        law = line.law
        if law is None:
            continue
        records: list[RecordJson] = [
            row.record for row, _ in line.points if law.smallest <= row.tokens <= law.largest
        ]
        spread = "" if law.margin is None else f" ± {law.margin:.2f}"
        lines.append(
            {
                "label": line.label,
                "metric": line.metric,
                "exponent": derived(records, line.metric, f"{law.exponent:.2f}{spread}"),
                "range": f"{law.smallest:,.0f} to {law.largest:,.0f}",
                "runs": _positions([record["run_id"] for record in records], rows),
            }
        )
    return lines


def _positions(runs: Iterable[str], rows: Sequence[RecordRow]) -> str:
    """Return the positions of records in the table, as text."""
    known = set(runs)
    return " ".join(str(k) for k, row in enumerate(rows) if row.run_id in known)


def _joined(positions: Iterable[str]) -> str:
    numbers = {int(word) for text in positions for word in text.split()}
    return " ".join(map(str, sorted(numbers)))


def missing_metrics(records: Sequence[RecordJson]) -> list[tuple[str, str]]:
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


def machines(records: Sequence[RecordJson]) -> list[dict[str, Any]]:
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
