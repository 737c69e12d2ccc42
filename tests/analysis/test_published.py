"""Published numbers: reading, validation, units, selection for figures."""

import copy
import json
import shutil

import pytest
from support.measured import measured, table_of

from analysis.errors import AnalysisError
from analysis.growth import PEAK_MEMORY, STEP_TIME
from analysis.published import (
    FOLDER,
    comparable,
    on_accelerators,
    published_table,
    read_published,
    references,
)
from analysis.table import rows

PUBLISHED = read_published(FOLDER)
FILES = sorted(FOLDER.glob("*.json"))
H200 = {"vendor": "nvidia", "name": "NVIDIA H200", "kind": "cuda"}
OTHER_AMD = {"vendor": "amd", "name": "AMD Instinct MI300X", "kind": "cuda"}


@pytest.fixture
def content():
    return json.loads(FILES[0].read_text(encoding="utf-8"))


def test_every_published_number_has_a_source():
    assert len(PUBLISHED) > 20
    for s in PUBLISHED:
        assert s.source
        assert s.obtained in {"stated", "digitized"}
        assert s.points
        for point in s.points:
            assert (point.value is None) == bool(point.status), s
    assert {"step_time_s", "peak_allocated_bytes"} <= {s.quantity for s in PUBLISHED}


def test_digitized_numbers_agree_with_stated_ones():
    """Compare the largest gain in memory that the abstract states with the digitized figure."""
    peak = {s.system: s for s in PUBLISHED if s.quantity == "peak_allocated_bytes"}
    megafold = {p.at: p.value for p in peak["MegaFold"].points}
    ratios = [p.value / megafold[p.at] for p in peak["PyTorch"].points if p.value]
    (stated,) = [s for s in PUBLISHED if s.quantity == "peak_memory_ratio"]
    assert max(ratios) == pytest.approx(stated.points[0].value, abs=0.01)
    amd = {s.system: s for s in PUBLISHED if s.figure.endswith("iteration, MI250")}
    megafold_amd = {p.at: p.value for p in amd["MegaFold"].points}
    ratios = {p.at: p.value / megafold_amd[p.at] for p in amd["PyTorch"].points if p.value}
    assert ratios[384] == pytest.approx(1.62, abs=0.01)


def test_published_table_are_in_the_unit_of_records():
    table = rows(table_of([measured(32, device=H200)]))
    lines = references(comparable(PUBLISHED, table), PEAK_MEMORY)
    best = next(line for line in lines if "MegaFold" in line.label)
    assert best.label == "published: MegaFold, H200"
    assert dict(best.points)[384] == pytest.approx(51.6e9)
    failed = {line.label: line.failed for line in lines}
    assert failed["published: PyTorch, H200"] == ((640, "oom"), (768, "oom"))


def test_published_table_have_the_same_quantity_and_axis():
    lines = references(PUBLISHED, STEP_TIME)
    assert {size for line in lines for size, _ in line.points} == {
        128,
        256,
        384,
        448,
        512,
        640,
        768,
    }
    assert all(line.label.startswith("published: ") for line in lines)


def test_comparable_series_prefer_the_hardware_of_the_records():
    def devices(*records, quantity="step_time_s"):
        selected = comparable(PUBLISHED, rows(table_of(records)))
        return {s.device for s in selected if s.quantity == quantity}

    assert devices(measured(32, device=H200)) == {"H200"}
    assert devices(measured(32, device=OTHER_AMD)) == {"MI250"}
    assert devices(measured(32)) == {"H200", "MI250", "A100"}
    # Another quantity has no numbers of that device.
    assert devices(measured(32, device=H200), quantity="triangle_attention forward") == {
        "H100 80GB"
    }
    assert on_accelerators(rows(table_of([measured(32, device=H200)])))
    assert not on_accelerators(rows(table_of([measured(32)])))


def test_published_table_has_every_number():
    lines = published_table(PUBLISHED)
    assert len(lines) == sum(len(s.points) for s in PUBLISHED)


def test_missing_folder_has_no_published_numbers(tmp_path):
    assert read_published(tmp_path / "none") == []


def _spoil(content, *path, value):
    for key in path[:-1]:
        content = content[key]
    if value is None:
        del content[path[-1]]
    else:
        content[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), "other/1", "schema: 'foldperf.published/1' was expected"),
        (("figures", 0, "unit"), "GiB", "figures.0.unit: 'GiB' is not one of"),
        (("figures", 0, "source"), None, "figures.0: 'source' is a required property"),
        (("figures", 1, "obtained"), "guessed", "figures.1.obtained"),
        (("figures", 0, "series", 0, "points", 0, "value"), -1, "points.0"),
        (("figures", 0, "series", 0, "points", 0, "status"), "oom", "points.0"),
        (("figures", 0, "remark"), "x", "figures.0: Additional properties"),
    ],
)
def test_invalid_file_is_reported_with_the_key_in_one_line(tmp_path, content, path, value, message):
    spoiled = copy.deepcopy(content)
    _spoil(spoiled, *path, value=value)
    (tmp_path / "work.json").write_text(json.dumps(spoiled), encoding="utf-8")
    with pytest.raises(AnalysisError) as error:
        read_published(tmp_path)
    assert "work.json: " in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_file_that_is_not_json_is_named(tmp_path):
    shutil.copy(FILES[0], tmp_path / "good.json")
    (tmp_path / "torn.json").write_text('{"schema": ', encoding="utf-8")
    with pytest.raises(AnalysisError, match=r"torn\.json: not JSON"):
        read_published(tmp_path)
