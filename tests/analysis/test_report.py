"""Report: files, page, reproducible bytes."""

import base64
import csv
import re
import shutil
import struct
from pathlib import Path

import pytest
from support.measured import failed
from support.reported import CHAPTERS, RECORDS

from analysis.drawing import FORMATS
from analysis.errors import AnalysisError
from analysis.report import write_report

WIDTHS = {3.5, 7.16, 0.75 * 7.16}
FINDINGS = (
    *("full_peak_memory", "full_calls_by_operator", "full_memory_by_state"),
    *("full_longest_tokens", "full_bytes_by_scheme"),
)


def images(text):
    return re.findall(r"<img alt=\"([^\"]*)\"[^>]* src=\"data:image/png;base64,([^\"]*)\"", text)


def section(text, name):
    return text.split(f'<section id="{name}"')[1].split("</section>")[0]


def difference(first, second):
    """Return the place at which two files differ and what they say there; empty if equal."""
    if first == second:
        return ""
    pairs = enumerate(zip(first, second, strict=False))
    at = next((k for k, (a, b) in pairs if a != b), min(len(first), len(second)))
    near = slice(max(0, at - 60), at + 60)
    return f"byte {at}, after {first.count(b'<img', 0, at)} images: {first[near]} {second[near]}"


class TestPage:
    def test_page_has_every_figure_and_no_external_resource(self, page):
        text = page.read_text(encoding="utf-8")
        page_images = images(text)
        assert len(page_images) == text.count("<img") == len(FINDINGS) + len(CHAPTERS)
        for _, image in page_images:
            assert base64.b64decode(image).startswith(b"\x89PNG")
        html = re.sub(r"data:image/png;base64,[^\"]*|id=\"data\">[^<]*", "", text)
        outsiders = ("http:", "https:", 'src="/', "url(", "@import", "<iframe", "fetch(", "XMLHttp")
        for outside in (*outsiders, "<script src"):
            assert outside not in html, outside
        assert "default-src 'none'" in text.split("</head>")[0], "the policy forbids requests"
        # Thirty figures are a page of less than 5 MB.
        assert len(text) < 5e6 / 30 * len(page_images)
        for name in CHAPTERS:
            assert f'href="#{name}"' in text
            assert f'<section id="{name}"' in text

    def test_unknown_workload_is_in_every_chapter(self, page):
        text = page.read_text(encoding="utf-8")
        assert text.count("unheard-of") > 10
        for name in CHAPTERS[:-1]:
            lines = list(csv.DictReader((page.parent / f"{name}.csv").open(encoding="utf-8")))
            assert "a workload that nobody knows" in {line["workload"] for line in lines}, name
            assert "unheard-of" in section(text, name), name

    def test_page_states_findings_and_missing_metrics(self, page):
        text = page.read_text(encoding="utf-8")
        assert "growing as N^2.5" in text
        assert "at 128 tokens the case ended as oom" in text
        assert "Energy per step is not plotted: no counter under /sys (9 records)." in text
        assert "it &lt;grew&gt;" in text
        assert "<b>other" not in text
        assert "None is plotted in the chapters: no record is of an accelerator." in text

    def test_images_have_alternative_text(self, page):
        alts = [alt for alt, _ in images(page.read_text(encoding="utf-8"))]
        assert all(len(alt) > 60 for alt in alts)
        assert all("(traced)" in alt or "(predicted)" in alt for alt in alts[: len(FINDINGS)])
        assert all("unheard-of" in alt or "text" in alt for alt in alts[len(FINDINGS) :])

    def test_every_internal_link_has_a_target(self, page):
        text = page.read_text(encoding="utf-8")
        for anchor in re.findall(r'href="#([^"]*)"', text):
            assert f'id="{anchor}"' in text

    def test_page_has_styles_for_phones_and_print(self, page):
        text = page.read_text(encoding="utf-8")
        assert 'name="viewport"' in text
        assert "@media print" in text
        # No column of figures is wider than the screen.
        assert "minmax(min(100%" in text


class TestFiles:
    def test_figures_have_embedded_fonts_source_and_print_width(self, page):
        for name in (*FINDINGS, *CHAPTERS):
            pdf = (page.parent / f"{name}.pdf").read_bytes()
            assert b"/Type3" not in pdf, "submission systems refuse Type 3 fonts"
            assert b"00000000" in pdf, "the source is in the metadata"
            png = (page.parent / f"{name}.png").read_bytes()
            width, _ = struct.unpack(">II", png[16:24])
            assert any(width == pytest.approx(w * 300, abs=2) for w in WIDTHS), name
            assert "</svg>" in (page.parent / f"{name}.svg").read_text(encoding="utf-8")

    def test_every_chapter_has_a_csv_file(self, page):
        for name in (*CHAPTERS, "table", "exponents", "published"):
            lines = list(csv.reader((page.parent / f"{name}.csv").open(encoding="utf-8")))
            assert len(lines) > 1, name
            assert {len(line) for line in lines} == {len(lines[0])}, name

    def test_report_of_the_same_records_is_identical(self, page, front, tmp_path):
        again = write_report(list(reversed(RECORDS)), tmp_path / "again", front=front)
        names = {path.name for path in page.parent.iterdir()}
        assert names == {path.name for path in again.parent.iterdir()}
        figures = len(FINDINGS) + len(CHAPTERS)
        assert len(names) == len(FORMATS) * figures + len(CHAPTERS) + 5
        for name in sorted(names):
            first, second = (path.parent / name for path in (page, again))
            assert difference(first.read_bytes(), second.read_bytes()) == "", name


DOC = (Path(__file__).resolve().parents[2] / "docs" / "report.md").read_text(encoding="utf-8")


def test_guide_names_every_figure(page):
    listed = re.findall(r"^\| (`.*?`) \|", DOC, re.MULTILINE)
    named = {name for cell in listed for name in re.findall(r"`(\w+)`", cell)}
    assert named >= {*FINDINGS, *CHAPTERS}
    # Chapters of quantities that these records lack.
    assert named - {*FINDINGS, *CHAPTERS} == {"kernel_launches_by_kind", "energy", "context_ranks"}


def test_example_code_of_the_guide_writes_its_figure(page, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report").symlink_to(page.parent)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    exec(compile(code, "report.md", "exec"), {})
    assert (tmp_path / "activations.pdf").read_bytes().startswith(b"%PDF")


def test_page_of_failed_cases_has_no_figures(tmp_path):
    text = write_report([failed(256, "oom")], tmp_path).read_text(encoding="utf-8")
    assert "<img" not in text
    assert "it &lt;grew&gt;" in text


def test_report_removes_files_of_an_earlier_report_alone(page, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(page.parent, folder)
    (folder / "mine.txt").write_text("mine", encoding="utf-8")
    write_report([failed(256, "oom")], folder)
    assert {path.name for path in folder.iterdir()} == {
        *("index.html", "table.csv", "published.csv", "files.json", "mine.txt")
    }


def test_manifest_cannot_remove_files_outside_the_folder(tmp_path):
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "files.json").write_text(
        '{"files": ["../mine.txt", 3, "gone.csv"]}', encoding="utf-8"
    )
    write_report([failed(256, "oom")], folder)
    assert (tmp_path / "mine.txt").exists()


def test_page_states_that_there_are_no_published_numbers(tmp_path):
    text = write_report([failed(256, "oom")], tmp_path, published=tmp_path / "none").read_text(
        encoding="utf-8"
    )
    assert "There are no published numbers to compare with" in text
    assert not (tmp_path / "published.csv").exists()


def test_report_shows_the_newest_record_of_a_case(tmp_path):
    old = failed(64, "oom")
    new = old | {"started_at": "2026-02-02T00:00:00+00:00", "run_id": "f" * 32}
    text = write_report([new, old], tmp_path).read_text(encoding="utf-8")
    assert "without 1 that newer records of the same case replace" in text
    (line,) = csv.DictReader((tmp_path / "table.csv").open(encoding="utf-8"))
    assert line["run_id"] == "f" * 32


def test_report_fails_without_records_or_with_an_unusable_folder(tmp_path):
    with pytest.raises(AnalysisError, match="no records"):
        write_report([], tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(AnalysisError, match=r"file"):
        write_report(RECORDS, tmp_path / "file")
