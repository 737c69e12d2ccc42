"""The report: tables, figures and one self-contained HTML page, from records alone."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.errors import AnalysisError
from analysis.figures import QUANTITIES, Quantity, Series, draw, save, series_of
from analysis.table import as_csv, newest, rows
from bench.record import Record

TEMPLATE = Path(__file__).with_name("report.html.j2")
PAGE = "index.html"


def write_report(records: Sequence[Record], folder: Path) -> Path:
    """Writes ``index.html``, ``table.csv`` and the figures; returns the page's path.

    Of several records of one case on one machine, the newest is shown.

    Raises:
        AnalysisError: there are no records, a library is missing, or the folder cannot be written.
    """
    if not records:
        raise AnalysisError("no records to report on; run a sweep first")
    try:
        import jinja2
        import matplotlib  # noqa: F401
        import scipy  # noqa: F401
    except ImportError as error:
        raise AnalysisError(f"reports need {error.name}: pip install 'foldperf[report]'") from None
    given = len(records)
    records = newest(records)
    table = rows(records)
    source = _source(records)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "table.csv").write_text(as_csv(table))
        figures = [
            _figure(quantity, lines, folder, source)
            for quantity in QUANTITIES
            if (lines := series_of(table, quantity))
        ]
        page = environment.from_string(TEMPLATE.read_text()).render(
            figures=figures,
            rows=table,
            source=source,
            superseded=given - len(records),
            statuses=sorted(Counter(row.status for row in table).items()),
            missing=_missing(records),
            machines=_machines(records),
        )
        path = folder / PAGE
        path.write_text(page)
    except OSError as error:
        raise AnalysisError(f"{error.filename or folder}: {error.strerror}") from None
    return path


def _source(records: Sequence[Record]) -> str:
    """Hash of the records, and the commits that they come from."""
    digest = hashlib.sha256("\n".join(sorted(r["run_id"] for r in records)).encode()).hexdigest()
    commits = sorted({(r["git"]["sha"] or "unknown")[:8] for r in records})
    return f"{len(records)} records {digest[:12]} of commit {', '.join(commits)}"


def _figure(quantity: Quantity, lines: list[Series], folder: Path, source: str) -> dict[str, Any]:
    save(draw(lines, quantity), folder, quantity.name, source)
    image = base64.b64encode((folder / f"{quantity.name}.png").read_bytes()).decode()
    return {
        "title": quantity.title,
        "name": quantity.name,
        "image": image,
        "findings": [_finding(quantity, line) for line in lines],
    }


def _finding(quantity: Quantity, line: Series) -> str:
    """A sentence on one line of a figure."""
    first, last = line.values[0] / quantity.scale, line.values[-1] / quantity.scale
    what = quantity.label
    if line.law is None:
        return f"{line.label}: {what} is {last:.3g} at {line.tokens[-1]:.0f} tokens."
    text = (
        f"{line.label}: {what} goes from {first:.3g} at {line.tokens[0]:.0f} tokens to "
        f"{last:.3g} at {line.tokens[-1]:.0f}, growing as {line.law} from "
        f"{line.law.smallest:.0f} tokens on"
    )
    for tokens, status in line.failed:
        text += f"; at {tokens:.0f} tokens the case ended as {status}"
    return text + "."


def _missing(records: Sequence[Record]) -> list[tuple[str, str]]:
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


def _machines(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Each machine and software that records come from, and how many."""
    groups: Counter[tuple[str, ...]] = Counter()
    for record in records:
        host, software = record["host"], record["software"]
        groups[
            record["devices"][0]["name"],
            f"{host['cpu']}, {host['cores']} cores, {host['memory_bytes'] / 2**30:.0f} GiB",
            f"python {software['python']}, torch {software['torch']}",
            (record["git"]["sha"] or "unknown")[:12] + ("*" if record["git"]["dirty"] else ""),
        ] += 1
    names = ("device", "host", "software", "commit")
    return [
        dict(zip(names, key, strict=True)) | {"records": count}
        for key, count in sorted(groups.items())
    ]
