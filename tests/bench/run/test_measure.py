"""Passes of a measurement together: every metric is in the record, and flags reach it."""

from pathlib import Path

import pytest
import torch

from bench.devices.cpu import CpuDevice
from bench.records.metrics import METRICS, OF_DEVICE_CHECKS, OF_FRONTIERS, OF_SIMULATIONS
from bench.run.measure import Protocol, measure
from workloads.catalogue import catalogue
from workloads.workload import ExecutionContext


class Throttled(CpuDevice):
    """Host that reports throttling."""

    def throttle_reasons(self):
        return frozenset({"hot"})


@pytest.fixture(scope="module")
def result():
    workload = catalogue()["operators"]
    config = workload.configure({"operator": "transition", "preset": "tiny", "tokens": 16})
    setting = ExecutionContext(device=torch.device("cpu"), store=Path("none"))
    protocol = Protocol(warmup_steps=1, timed_steps=3)
    return measure(workload, config, setting, Throttled(), protocol)


def test_every_metric_is_in_a_record_or_has_its_reason(result):
    of_cases = set(METRICS) - OF_DEVICE_CHECKS - OF_FRONTIERS - OF_SIMULATIONS
    assert {name.partition(".")[0] for name in result["metrics"]} == of_cases
    for name, metric in result["metrics"].items():
        assert (metric["value"] is None) == bool(metric["reason"]), name


def test_throttling_flags_times_and_is_in_the_telemetry(result):
    for name in ("step_time_s", "phase_time_s.forward", "phase_time_s.backward"):
        assert "throttled: hot" in result["metrics"][name]["flags"]
    telemetry = result["telemetry"]
    assert telemetry == {"throttle_reasons": [1, 1, 1], "throttle_reasons.hot": [1, 1, 1]}


def test_operator_on_a_host_has_no_device_time(result):
    for name in ("device_time_s", "host_time_s"):
        assert "no accelerator" in result["metrics"][name]["reason"]
