"""Predicted edge: few traces, remembered by content."""

import math

import pytest

from bench.errors import UsageError
from bench.frontier.memory import find_memory
from bench.frontier.prediction import interpolated, predict_edge, traced_peak_bytes
from bench.simulation import traces
from bench.simulation.baseline import Baseline, assumed_baseline
from workloads.catalogue import catalogue

NOTHING = Baseline(0, 0.0, "nothing")


def quadratic(n):
    return 5 * 2**20 + 3000 * n + 700 * n * n


def cubic(n):
    return 2**26 + 2**15 * n * n + 900 * n**3


def stepped(n):
    """Grows in steps of four, as chunks do."""
    return cubic(4 * math.ceil(n / 4))


@pytest.mark.parametrize("peak", [quadratic, cubic, stepped])
@pytest.mark.parametrize("limit", [2**24, 2**31, 2**33, 2**37])
def test_edge_of_a_smooth_peak_takes_few_traces(peak, limit):
    edge, peaks = predict_edge(peak, limit, NOTHING, 2048, start=8)
    fits = [n for n in range(1, 2049) if peak(n) <= limit]
    assert edge.longest == max(fits, default=0)
    assert edge.settled
    assert len(peaks) <= (7 if peak is not stepped else 10)


def test_baseline_is_part_of_the_limit():
    base = Baseline(2**30, 0.05, "assumed")
    assert base.with_tensors(2**30) == 2**30 + 2**30 + int(0.05 * 2**30)
    free, _ = predict_edge(quadratic, 2**33, NOTHING, 8192, start=8)
    less, _ = predict_edge(quadratic, 2**33, base, 8192, start=8)
    assert less.longest < free.longest
    assert base.with_tensors(quadratic(less.longest)) <= 2**33
    assert base.with_tensors(quadratic(less.longest + 1)) > 2**33


@pytest.mark.parametrize("count", [1, 2, 3])
def test_interpolation_is_exact_for_its_polynomial(count):
    law = (lambda n: 3 * n * n, lambda n: 50 + 3 * n * n, quadratic)[count - 1]
    totals = {n: law(n) for n in (4, 9, 20)[:count]}
    limit = law(500)
    assert interpolated(totals, limit, 20, 4096) in {499, 500}


def test_traced_peak_grows_with_the_length(tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path))
    workload = catalogue()["operators"]
    peaks = [
        traced_peak_bytes(
            workload, workload.configure({"operator": "transition", "preset": "tiny", "tokens": n})
        )
        for n in (8, 16)
    ]
    assert 0 < peaks[0] < peaks[1]
    monkeypatch.setattr(traces, "predicted_costs", None)
    again = workload.configure({"operator": "transition", "preset": "tiny", "tokens": 16})
    assert traced_peak_bytes(workload, again) == peaks[1]


def test_memory_is_that_of_the_device_or_as_stated():
    assert find_memory("h200", None, measured=False).nbytes == 141 * 10**9
    assert find_memory(None, 80.0, measured=False).nbytes == 80 * 2**30
    local = find_memory("cpu", 0.5, measured=True)
    assert (local.kind, local.nbytes) == ("cpu", 2**29)
    assert find_memory("cpu", None, measured=True).nbytes > 2**29
    assert assumed_baseline(4).nbytes > assumed_baseline(1).nbytes


@pytest.mark.parametrize(
    ("device", "gib", "measured", "words"),
    [
        ("h9000", None, False, "one of this machine"),
        ("h200", None, True, "leave out --measure"),
        ("h200", 80.0, False, "state one of the two"),
        ("cpu", 1e6, True, "choose less"),
    ],
)
def test_impossible_memory_is_refused_with_the_way_out(device, gib, measured, words):
    with pytest.raises(UsageError, match=words):
        find_memory(device, gib, measured=measured)
