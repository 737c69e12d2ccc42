"""Chapters of a device check: rates and ratios are those of the records."""

import csv
import io

import pytest
from support.measured import measured

from analysis.device_check import rates_chapter, roofline_chapter
from analysis.table import rows
from bench.metrics import Value, as_json, missing


def lines(chapter):
    return list(csv.DictReader(io.StringIO(chapter.csv())))


def calibration(quantity, seconds, **more):
    facts = {"minimum_bytes": 8_000, "step_flops": 6_000, "exponentials": 4_000}
    found = measured(8, "calibration")
    found["metrics"] = as_json({"device_time_s": Value(seconds, "graph")})
    found["workload"]["config"] = {"quantity": quantity}
    found["facts"] = found["facts"] | facts | {"arithmetic": "bfloat16"}
    return found | more


def operator(seconds, ratio, **config):
    found = measured(128, "operators")
    found["metrics"] = as_json({"device_time_s": Value(seconds, "graph"), "times_floor": ratio})
    chosen = {"operator": "transition", "backend": "triton", "backward": False}
    found["workload"]["config"] = chosen | config
    return found


def test_rates_are_work_over_time_on_the_device():
    records = [
        calibration("copy", 2.0),
        calibration("product", 3.0),
        calibration("exponentials", 4.0),
        calibration("l2_copy", 5.0, outcome={"l2_bytes": 100.0}),
        calibration("l2_copy", 5.0),
    ]
    chapter = rates_chapter(rows(records))
    found = {line["resource"]: float(line["rate_per_s"]) for line in lines(chapter)}
    assert found == {
        "copy in device memory": 4_000,
        "bfloat16 matrix product": 2_000,
        "exponentials": 1_000,
        "copy in the L2 cache": 20,
    }
    (figure,) = chapter.figures
    assert any(
        "bfloat16 matrix product" in text and "kFLOP" not in text for text in figure.findings
    )
    figure.draw()


def test_there_is_no_chapter_without_such_records():
    others = rows([measured(8, "toy")])
    assert not rates_chapter(others).lines
    assert not roofline_chapter(others).lines


def test_ratios_to_the_roofline_are_drawn_where_a_peak_is_known():
    chapter = roofline_chapter(
        rows(
            [
                operator(2e-3, Value(4.0, "m")),
                operator(1e-3, Value(2.0, "m"), backward=True),
                operator(1e-3, missing("no peak")),
            ]
        )
    )
    assert len(lines(chapter)) == 3
    (figure,) = chapter.figures
    assert figure.findings == (
        "Farthest from the bound: transition, triton, forward, 4.00 times.",
        "Nearest: transition, triton, forward+backward, 2.00 times.",
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
