"""Published numbers: read, checked, labelled, drawn where they may be."""

import copy
import json
import shutil

import pytest
from support.measured import measured

from analysis.errors import AnalysisError
from analysis.growth import PEAK_MEMORY, STEP_TIME
from analysis.published import (
    FOLDER,
    comparable,
    on_accelerators,
    published_lines,
    read_published,
    references,
)
from analysis.table import rows

OURS = read_published(FOLDER)
FILES = sorted(FOLDER.glob("*.json"))
H200 = {"vendor": "nvidia", "name": "NVIDIA H200", "kind": "cuda"}
OTHER_AMD = {"vendor": "amd", "name": "AMD Instinct MI300X", "kind": "cuda"}


@pytest.fixture
def content():
    return json.loads(FILES[0].read_text(encoding="utf-8"))


def test_every_number_has_its_source():
    assert len(OURS) > 20
    for each in OURS:
        assert each.source
        assert each.obtained in {"stated", "digitized"}
        assert each.points
        for point in each.points:
            assert (point.value is None) == bool(point.status), each
    assert {"step_time_s", "peak_allocated_bytes"} <= {each.quantity for each in OURS}


def test_what_is_stated_of_digitized_numbers_holds():
    """The largest gain in memory that the abstract states is that of the figure."""
    peak = {each.system: each for each in OURS if each.quantity == "peak_allocated_bytes"}
    ours = {p.at: p.value for p in peak["MegaFold"].points}
    ratios = [p.value / ours[p.at] for p in peak["PyTorch"].points if p.value]
    (stated,) = [each for each in OURS if each.quantity == "peak_memory_ratio"]
    assert max(ratios) == pytest.approx(stated.points[0].value, abs=0.01)
    amd = {each.system: each for each in OURS if each.figure.endswith("iteration, MI250")}
    fast = {p.at: p.value for p in amd["MegaFold"].points}
    ratios = {p.at: p.value / fast[p.at] for p in amd["PyTorch"].points if p.value}
    assert ratios[384] == pytest.approx(1.62, abs=0.01)


def test_units_become_those_of_our_records():
    table = rows([measured(32, device=H200)])
    drawn = references(comparable(OURS, table), PEAK_MEMORY)
    best = next(line for line in drawn if "MegaFold" in line.label)
    assert best.label == "published: MegaFold, H200"
    assert dict(best.points)[384] == pytest.approx(51.6e9)
    failed = {line.label: line.failed for line in drawn}
    assert failed["published: PyTorch, H200"] == ((640, "oom"), (768, "oom"))


def test_only_what_is_of_the_same_quantity_and_axis_is_drawn():
    lines = references(OURS, STEP_TIME)
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


def test_the_hardware_is_that_of_the_records_where_there_is_such():
    def devices(*records, quantity="step_time_s"):
        found = comparable(OURS, rows(records))
        return {each.device for each in found if each.quantity == quantity}

    assert devices(measured(32, device=H200)) == {"H200"}
    assert devices(measured(32, device=OTHER_AMD)) == {"MI250"}
    assert devices(measured(32)) == {"H200", "MI250"}
    # Of another quantity another device is the nearest.
    assert devices(measured(32, device=H200), quantity="triangle_attention forward") == {
        "H100 80GB"
    }
    assert on_accelerators(rows([measured(32, device=H200)]))
    assert not on_accelerators(rows([measured(32)]))


def test_the_table_has_every_number():
    lines = published_lines(OURS)
    assert len(lines) == sum(len(each.points) for each in OURS)


def test_no_folder_is_no_numbers(tmp_path):
    assert read_published(tmp_path / "none") == []


def _spoil(content, *path, value):
    for key in path[:-1]:
        content = content[key]
    if value is None:
        del content[path[-1]]
    else:
        content[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
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
def test_a_wrong_file_is_named_with_the_place_in_one_line(tmp_path, content, path, value, said):
    spoiled = copy.deepcopy(content)
    _spoil(spoiled, *path, value=value)
    (tmp_path / "work.json").write_text(json.dumps(spoiled), encoding="utf-8")
    with pytest.raises(AnalysisError) as error:
        read_published(tmp_path)
    assert "work.json: " in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_json_is_named(tmp_path):
    shutil.copy(FILES[0], tmp_path / "good.json")
    (tmp_path / "torn.json").write_text('{"schema": ', encoding="utf-8")
    with pytest.raises(AnalysisError, match=r"torn\.json: not JSON"):
        read_published(tmp_path)
