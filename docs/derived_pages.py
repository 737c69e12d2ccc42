"""Text of the site's pages that are derived from the repository: metrics, figures and examples."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from bench.records.metrics import METRICS

ROOT = Path(__file__).resolve().parent.parent
DOCS, FIGURES, EXAMPLES = ROOT / "docs", ROOT / "docs" / "figures", ROOT / "examples"
# Packages with the modules that measure, trace or predict a metric.
_SOURCES = ("probes", "run", "simulation", "frontier", "check_device")
_OVER_RANKS = re.compile(r"; (?:largest|sum|mean|device sum) (?:of|over) \d+ \w+$")
_LANGUAGES = {".py": "python", ".sh": "sh", ".toml": "toml"}


def recorded_methods() -> dict[str, list[str]]:
    """Return the methods by which committed records have each metric, most frequent first."""
    counts: dict[str, dict[str, int]] = {}
    for path in sorted((ROOT / "results" / "recorded").rglob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            for name, metric in (json.loads(line).get("metrics") or {}).items():
                if metric["value"] is not None:
                    method = _OVER_RANKS.sub("", metric["method"])
                    methods = counts.setdefault(name.split(".")[0], {})
                    methods[method] = methods.get(method, 0) + 1
    return {name: sorted(m, key=lambda text: (-m[text], text)) for name, m in counts.items()}


def metric_modules() -> dict[str, list[str]]:
    """Return the modules of `bench` that give each metric its value."""
    modules: dict[str, list[str]] = {}
    for package in _SOURCES:
        for path in sorted((ROOT / "bench" / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            patterns = list(_written_keys(path))
            for name in METRICS:
                if any(re.fullmatch(pattern, name) for pattern in patterns):
                    modules.setdefault(name, []).append(module.removesuffix(".__init__"))
    return modules


def _written_keys(path: Path) -> Iterator[str]:
    """Yield patterns of the keys under which a file stores values, without the name of a part."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Dict):
            keys = list(node.keys)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        elif isinstance(node, ast.DictComp):
            keys = [node.key]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            # A constant that names the metric.
            keys = [node.value]
        for key in keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield re.escape(key.value)
            elif isinstance(key, ast.JoinedStr):
                texts = (p.value if isinstance(p, ast.Constant) else None for p in key.values)
                pattern = "".join(".*" if text is None else re.escape(text) for text in texts)
                if re.search(r"[a-z]{3}", pattern):
                    yield pattern.split(r"\.")[0]


def metric_page() -> Iterator[str]:
    """Yield the lines of the page of metrics: unit, direction, reduction and method of each."""
    methods, modules = recorded_methods(), metric_modules()
    for name, kind in METRICS.items():
        yield f"## {name}\n"
        yield f"{kind.meaning[0].upper()}{kind.meaning[1:]}.\n"
        yield f"- Unit: {'none (a number)' if kind.unit == '1' else kind.unit}"
        yield f"- Better: {kind.better}"
        yield f"- Quantity of: {kind.scope}"
        yield f"- Over ranks: {kind.over_ranks}"
        yield f"- Methods of committed records: {'; '.join(methods.get(name, ())) or 'none has it'}"
        links = ", ".join(f"{{py:mod}}`{module}`" for module in modules.get(name, ()))
        yield f"- Set in: {links or 'no module'}\n"


def gallery() -> Iterator[tuple[Path, str, Path]]:
    """Yield each figure, its description, and the page that shows it first."""
    pages = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
    shown: dict[str, tuple[str, Path]] = {}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for description, name in re.findall(r"!\[([^\]]*)\]\([^)]*figures/([^)]+)\)", text):
            shown.setdefault(name, (description, page))
    for figure in sorted(path for path in FIGURES.iterdir() if path.suffix in {".png", ".svg"}):
        # A page may show one of several forms of a figure.
        if figure.name in shown:
            yield figure, *shown[figure.name]


def gallery_page() -> Iterator[str]:
    """Yield the lines of the gallery."""
    for figure, description, page in gallery():
        yield f"## {description}\n"
        yield f"![{description}](/{figure.relative_to(DOCS)})\n"
        if page.parent == DOCS:
            yield f"[{page.stem.replace('-', ' ').capitalize()}](/{page.name})\n"


def example_files() -> list[Path]:
    """Return the files of the examples: programs, the sweep that one runs, the package of one."""
    return sorted(
        path for path in EXAMPLES.rglob("*") if path.suffix in _LANGUAGES and _is_source(path)
    )


def _is_source(path: Path) -> bool:
    return not any(part == "build" or part.endswith(".egg-info") for part in path.parts)


def example_page() -> Iterator[str]:
    """Yield the lines of the page of examples, each with its code."""
    for path in example_files():
        yield f"## {path.relative_to(EXAMPLES)}\n"
        yield f"```{{literalinclude}} /../{path.relative_to(ROOT)}"
        yield f":language: {_LANGUAGES[path.suffix]}\n```\n"
