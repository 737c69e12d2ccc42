"""Chapters of a device check: rates and ratios equal those of the records."""

import csv
import io

import pytest
from support.measured import measured, table_of

from analysis.device_check import rates_chapter, roofline_chapter
from bench.records.metrics import Value, as_json, missing


def lines(chapter):
    return list(csv.DictReader(io.StringIO(chapter.csv())))


def calibration(resource, seconds, work=8_000.0, rate="bandwidth"):
    record = measured(8, "toy")
    record["metrics"] = as_json({"device_time_s": Value(seconds, "graph")})
    record["workload"]["labels"] |= {"resource": resource, "rate": rate}
    return record | {"outcome": {"work": work}}


def operator(seconds, ratio, variant="triton"):
    record = measured(128, "toy", "an operator", variant=variant)
    record["metrics"] = as_json(
        {"device_time_s": Value(seconds, "graph"), "ratio_to_roofline": ratio}
    )
    return record


def test_rate_is_work_over_device_time():
    records = [
        calibration("copy in device memory", 2.0),
        calibration("bfloat16 matrix product", 3.0, 6e12, "flops"),
        calibration("exponentials", 4.0, 4_000.0, "rate"),
        calibration("copy in the L2 cache", 5.0, 100.0),
        calibration("copy of nothing", 5.0, None),
    ]
    chapter = rates_chapter(table_of(records))
    rates = {line["resource"]: float(line["rate_per_s"]) for line in lines(chapter)}
    assert rates == {
        "copy in device memory": 4_000,
        "bfloat16 matrix product": 2e12,
        "exponentials": 1_000,
        "copy in the L2 cache": 20,
    }
    (figure,) = chapter.figures
    assert "bfloat16 matrix product, a cpu: 2 TFLOP/s." in figure.findings
    figure.draw()
    assert roofline_chapter(table_of(records)).table is None


def test_device_check_chapters_are_empty_for_other_records():
    table = table_of([measured(8, "toy")])
    assert rates_chapter(table).table is None
    assert roofline_chapter(table).table is None


def test_roofline_ratios_are_plotted_when_peaks_are_known():
    chapter = roofline_chapter(
        table_of(
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


def test_device_without_peaks_has_times_and_a_note():
    chapter = roofline_chapter(table_of([operator(1e-3, missing("no peak"))]))
    assert not chapter.figures
    assert chapter.notes == (
        "Kernels relative to the roofline is not plotted: no peak rates are known for the device "
        "that ran them.",
    )
    assert lines(chapter)[0]["device_time_s"] == "0.001"


@pytest.mark.parametrize("value", [0.0, None])
def test_rate_is_absent_without_a_positive_time(value):
    record = calibration("copy", 1.0)
    time = Value(value, "m") if value is not None else missing("lost")
    record["metrics"] = as_json({"device_time_s": time, "step_time_s": missing("lost")})
    assert rates_chapter(table_of([record])).table is None
