"""Documentation site: its contents are complete, and derived pages have every metric and figure."""

import importlib.util
import re

import pytest
from support.documents import PAGES, ROOT

from bench.records.metrics import METRICS

DOCS = ROOT / "docs"


def module(name):
    """Return a module of the site, which needs no Sphinx."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def derived():
    """The module of derived pages."""
    return module("derived_pages")


def contents():
    """Return the pages of the tables of contents, in order."""
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}\n(?::[^\n]*\n)*\n(.*?)```", index, re.DOTALL)
    return "".join(blocks).split()


def test_contents_list_every_page_once():
    pages = [*DOCS.glob("*.md"), *DOCS.glob("reference/*.md")]
    files = {path.relative_to(DOCS).with_suffix("").as_posix() for path in pages} - {"index"}
    packages = {f"api/{name}/{name}" for name in ("refsys", "workloads", "bench", "analysis")}
    listed = contents()
    assert len(listed) == len(set(listed))
    assert set(listed) == files | packages


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent == DOCS], ids=lambda page: page.name
)
def test_guides_name_each_other_by_links(page):
    """A path in backticks is no link, neither on GitHub nor on the site."""
    assert not re.findall(r"`docs/[\w-]+\.md`", page.read_text(encoding="utf-8"))


def test_page_of_metrics_has_unit_direction_and_method_of_each(derived):
    sections = "\n".join(derived.metric_page()).split("## ")[1:]
    assert [section.split("\n")[0] for section in sections] == list(METRICS)
    for section, kind in zip(sections, METRICS.values(), strict=True):
        assert f"\n- Better: {kind.better}\n" in section
        assert kind.unit == "1" or f"\n- Unit: {kind.unit}\n" in section
        assert re.search(r"\n- Methods of committed records: \S", section)
        assert re.search(r"\n- Set in: \{py:mod\}`bench\.", section), section


def test_methods_of_records_leave_out_the_number_of_ranks(derived):
    methods = derived.recorded_methods()
    assert "cpu stopwatch, median" in methods["step_time_s"]
    assert not [text for texts in methods.values() for text in texts if "ranks" in text]


def test_gallery_has_every_figure_with_a_description(derived):
    figures = {path.stem for path in derived.FIGURES.iterdir() if path.suffix in {".png", ".svg"}}
    shown = {figure.stem: description for figure, description, _ in derived.gallery()}
    assert shown.keys() == figures, "a figure that no guide shows"
    assert all(len(description) > 20 for description in shown.values())


def test_page_of_examples_includes_every_program(derived):
    page = "\n".join(derived.example_page())
    for path in (ROOT / "examples").rglob("*.py"):
        if "build" not in path.parts:
            assert f"literalinclude}} /../{path.relative_to(ROOT)}\n" in page


def test_sentence_on_results_is_not_split_into_type_and_text():
    lines = ["Do it.", "", "Returns:", "    Calls, and a breakdown: bytes.", ""]
    corrected = module("docstrings").untyped_returns(lines)
    assert corrected == [*lines[:3], "    : Calls, and a breakdown: bytes.", ""]


def test_types_that_end_like_references_are_escaped():
    lines = [":vartype names: dtype[numpy.str_]", ":ivar my_names: Names of str_."]
    escaped, same = module("docstrings").escaped_types(lines)
    assert (escaped, same) == (":vartype names: dtype[numpy.str\\_]", lines[1])
