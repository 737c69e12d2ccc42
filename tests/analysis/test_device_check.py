"""Chapters of a device check: rates and ratios are those of the records."""

import csv
import io

import pytest
from support.measured import measured

from analysis.device_check import rates_chapter, roofline_chapter
from analysis.table import rows
from bench.records.metrics import Value, as_json, missing


def lines(chapter):
    return list(csv.DictReader(io.StringIO(chapter.csv())))


def calibration(resource, seconds, work=8_000.0, rate="bandwidth"):
    found = measured(8, "toy")
    found["metrics"] = as_json({"device_time_s": Value(seconds, "graph")})
    found["workload"]["labels"] |= {"resource": resource, "rate": rate}
    return found | {"outcome": {"work": work}}


def operator(seconds, ratio, variant="triton"):
    found = measured(128, "toy", "an operator", variant=variant)
    found["metrics"] = as_json({"device_time_s": Value(seconds, "graph"), "times_floor": ratio})
    return found


def test_rates_are_work_over_time_on_the_device():
    records = [
        calibration("copy in device memory", 2.0),
        calibration("bfloat16 matrix product", 3.0, 6e12, "flops"),
        calibration("exponentials", 4.0, 4_000.0, "rate"),
        calibration("copy in the L2 cache", 5.0, 100.0),
        calibration("copy of nothing", 5.0, None),
    ]
    chapter = rates_chapter(rows(records))
    found = {line["resource"]: float(line["rate_per_s"]) for line in lines(chapter)}
    assert found == {
        "copy in device memory": 4_000,
        "bfloat16 matrix product": 2e12,
        "exponentials": 1_000,
        "copy in the L2 cache": 20,
    }
    (figure,) = chapter.figures
    assert "bfloat16 matrix product, a cpu: 2 TFLOP/s." in figure.findings
    figure.draw()
    assert not roofline_chapter(rows(records)).lines


def test_there_is_no_chapter_without_such_records():
    others = rows([measured(8, "toy")])
    assert not rates_chapter(others).lines
    assert not roofline_chapter(others).lines


def test_ratios_to_the_roofline_are_drawn_where_a_peak_is_known():
    chapter = roofline_chapter(
        rows(
            [
                operator(2e-3, Value(4.0, "m")),
                operator(1e-3, Value(2.0, "m"), "triton, forward alone"),
                operator(1e-3, missing("no peak")),
            ]
        )
    )
    assert len(lines(chapter)) == 3
    (figure,) = chapter.figures
    assert figure.findings == (
        "Farthest from the bound: an operator, triton, 4.00 times.",
        "Nearest: an operator, triton, forward alone, 2.00 times.",
    )
    figure.draw()


def test_a_device_without_a_peak_has_its_times_and_a_note():
    chapter = roofline_chapter(rows([operator(1e-3, missing("no peak"))]))
    assert not chapter.figures
    assert chapter.notes == (
        "Kernels beside the roofline is not drawn: no peak rates are known of the device that ran "
        "them.",
    )
    assert lines(chapter)[0]["device_time_s"] == "0.001"


@pytest.mark.parametrize("value", [0.0, None])
def test_a_time_of_nothing_gives_no_rate(value):
    record = calibration("copy", 1.0)
    time = Value(value, "m") if value is not None else missing("lost")
    record["metrics"] = as_json({"device_time_s": time, "step_time_s": missing("lost")})
    assert not rates_chapter(rows([record])).lines
