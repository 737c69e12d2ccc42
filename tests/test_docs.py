"""Documentation: its paths and links exist, its tables are complete."""

import re

import pytest
from support.documents import PAGES, ROOT, toml_blocks_of

from bench.records.metrics import METRICS
from bench.run.sweep import read_sweep
from workloads.catalogue import catalogue


def test_makefile_has_the_commands_of_the_first_screen():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    screen = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30]
    for target in ("demo", "test"):
        assert f"make {target}" in "\n".join(screen)
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:analysis|bench|docs|examples|refsys|results|tests|workloads)/[\w./-]*)`", text
    )
    linked = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    for path in (*named, *linked):
        if not path.startswith(("results/runs", "runs/")):
            assert (ROOT / path).exists() or (page.parent / path).exists(), path


def test_documented_sweep_is_valid(tmp_path):
    (block,) = [text for page in PAGES for text in toml_blocks_of(page) if "[[case]]" in text]
    path = tmp_path / "shown.toml"
    path.write_text(block, encoding="utf-8")
    assert len(read_sweep(path, catalogue()).cases) == 3


def test_every_workload_is_on_the_first_page():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in catalogue().workloads:
        assert f"| `{name}` |" in page


def test_every_metric_is_in_the_table():
    page = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    for name, kind in METRICS.items():
        assert f"| `{name}` | {kind.meaning} |\n" in page, name


def test_every_entry_of_the_table_has_the_stated_sizes(everything):
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    table = page[page.index("| entry |") : page.index("No filter")].splitlines()[2:]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table if row]
    assert len(rows) > 5
    for entries, what, sizes, alignment in rows:
        for entry, size in zip(entries.split(", "), sizes.split(", "), strict=True):
            example = everything.open(entry)
            assert example.tokens == int(size.replace(",", "")), entry
            paired = len(example.pairing["rows"]) if example.pairing else 1
            depths = {len(record["codes"]) for record in example.alignments.values()}
            assert ("alone" in alignment) == (depths == {1}), entry
            assert ("paired" in alignment) == (paired > 1), entry
            assert "template" not in what or example.templates, entry
            for count in re.findall(r"([\d,]+)(?: paired)? rows", alignment):
                assert int(count.replace(",", "")) in depths | {paired}, entry
