"""Several ranks on one case: reduction of their figures, and failure of a rank."""

import json
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import HANG_S
from support.forked_modules import FRESH
from support.records import valid_records
from support.third_party import install

from bench.records.metrics import METRICS, Value, as_json, from_samples, missing
from bench.records.record import CaseResult
from bench.run.ranks import merged
from bench.run.sweep import read_sweep, shipped_sweeps
from workloads.catalogue import catalogue

QUICK = "warmup_steps = 0\ntimed_steps = 3\nenergy_s = 1\n"


def merge(values_of_ranks, domains=None):
    """Return the merged metrics of ranks, by default each on a device of its own."""
    results = [
        CaseResult.from_dict({"status": "ok", "metrics": as_json(values)})
        for values in values_of_ranks
    ]
    domains = domains or [("gpu", number) for number in range(len(results))]
    return merged(results, domains).metrics


def test_result_of_one_rank_is_unchanged():
    result = CaseResult.from_dict(
        {"status": "ok", "metrics": as_json({"step_time_s": Value(1.0, "clock")})}
    )
    assert merged([result], ["gpu"]) == result


def test_merged_metric_is_reduced_as_its_kind_says():
    figures = {"largest": 5.0, "sum": 8.0, "mean": 4.0, "device sum": 8.0}
    for name, kind in METRICS.items():
        (metric,) = merge([{name: Value(3.0, "a")}, {name: Value(5.0, "a")}]).values()
        assert metric.ranks == (3.0, 5.0)
        assert metric.value == figures[kind.over_ranks], name
        assert "2 ranks" in metric.method


def test_shared_energy_counter_is_counted_once():
    values = [{"energy_per_step_j": Value(joules, "counter")} for joules in (10.0, 12.0, 7.0)]
    assert merge(values, ["host", "host", "gpu"])["energy_per_step_j"].value == 18.0


def test_merged_metric_is_degraded_when_that_of_any_rank_is():
    good = {"energy_per_step_j": Value(10.0, "counter")}
    poor = {"energy_per_step_j": Value(9.0, "c", quality="degraded", flags=("few ticks: 4",))}
    metric = merge([good, poor])["energy_per_step_j"]
    assert (metric.quality, metric.flags) == ("degraded", ("few ticks: 4",))
    assert merge([good, good])["energy_per_step_j"].quality == "measured"


def test_die_without_a_counter_is_covered_by_the_die_that_counts_for_its_module():
    """On an MI250 the first die of a module reports both, the second nothing."""
    none = missing("the energy accumulator is absent or zero (second die of a module?)")
    values = [
        {"energy_per_step_j": energy} for energy in (Value(9.0, "c", n=3), none, Value(7.0, "c"))
    ]
    metric = merge(values, ["module 0", "module 0", "module 1"])["energy_per_step_j"]
    assert metric.value == 16.0
    assert metric.ranks == (9.0, None, 7.0)
    assert (metric.reason, metric.quality, metric.n) == (None, "measured", 3)
    assert merge(values[1::-1], ["module 0"] * 2)["energy_per_step_j"].value == 9.0
    alone = merge(values, ["module 0", "module 2", "module 1"])["energy_per_step_j"]
    assert alone.reason.startswith("rank 1: the energy accumulator is absent")
    memory = [{"device_used_bytes": Value(1, "driver")}, {"device_used_bytes": none}]
    assert merge(memory, ["module 0"] * 2)["device_used_bytes"].value is None


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=8), st.floats(1.0, 9.0))
def test_energy_is_the_sum_over_distinct_devices(domains, joules):
    values = [{"energy_per_step_j": Value(joules, "counter")} for _ in domains]
    energy = merge(values, domains)["energy_per_step_j"].value
    assert energy == pytest.approx(joules * len(set(domains)))


@given(st.lists(st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=5), min_size=2, max_size=4))
def test_step_time_is_that_of_the_slowest_rank(samples):
    values = [{"step_time_s": from_samples(own, "clock")} for own in samples]
    metric = merge(values)["step_time_s"]
    slowest = tuple(max(step) for step in zip(*samples, strict=True))
    assert metric.samples == slowest
    assert metric.value == median(slowest)
    assert metric.ci[0] <= metric.value <= metric.ci[1]


def test_metric_that_a_rank_lacks_is_missing_with_its_reason():
    metric = merge(
        [{"device_used_bytes": Value(1, "driver")}, {"device_used_bytes": missing("driver is old")}]
    )["device_used_bytes"]
    assert (metric.value, metric.reason) == (None, "rank 1: driver is old")
    assert metric.ranks == (1, None)


@pytest.fixture
def toys(tmp_path):
    folder = tmp_path / "toys"
    folder.mkdir()
    return install(folder)


def run_toys(foldperf, tmp_path, toys, behaviours, check):
    sweep = tmp_path / "toy.toml"
    sweep.write_text(
        f"[protocol]\n{QUICK}timeout_s = {HANG_S}\n[[case]]\n"
        f'workload = "toy"\nranks = 2\naxes = {{ behaviour = {json.dumps(behaviours)} }}\n',
        encoding="utf-8",
    )
    foldperf("run", sweep, paths=[toys], check=check)
    found = valid_records(tmp_path / "results/runs/toy/records.jsonl")
    return {record["workload"]["config"]["behaviour"]: record for record in found}


def test_rank_that_fails_ends_the_case_at_once(foldperf, tmp_path, toys):
    behaviours = ["memory error on rank 1", "exit on rank 1"]
    found = run_toys(foldperf, tmp_path, toys, behaviours, check=2)
    full = found["memory error on rank 1"]
    assert (full["status"], full["reason"]) == ("oom", "rank 1: MemoryError: too much was asked")
    gone = found["exit on rank 1"]
    assert gone["status"] == "crash"
    assert max(full["duration_s"], gone["duration_s"]) < HANG_S / 2


def test_sweep_runs_on_two_real_ranks(foldperf, tmp_path, store):
    sweep = tmp_path / "pair.toml"
    sweep.write_text(
        f"[protocol]\n{QUICK}"
        '[[case]]\nworkload = "alphafold3-trunk"\naxes = { tokens = 16, entry = "8vkf" }\n',
        encoding="utf-8",
    )
    # Interpreters of their own: with more libraries loaded, the profiler may crash beside gloo.
    foldperf("run", sweep, "--ranks", "2", "--store", store.root, check=0, **{FRESH: "1"})
    (record,) = valid_records(tmp_path / "results/runs/pair/records.jsonl")
    metrics = record["metrics"]
    assert record["workload"]["ranks"] == len(record["devices"]) == 2
    parameters = record["facts"]["parameters"]
    # The frozen parameters of the last MSA update have no gradient.
    assert 0.9 * 4 * parameters < metrics["collective_bytes"]["value"] <= 4 * parameters
    assert metrics["collective_calls"]["ranks"] == [1, 1]
    assert record["breakdown"]["collective_bytes"] == {
        "gradients": metrics["collective_bytes"]["value"]
    }
    assert 0 < metrics["collective_wait_s"]["value"] < metrics["step_time_s"]["value"]
    assert metrics["phase_time_s.all_reduce"]["value"] > 0
    assert metrics["operator_calls.communication"]["value"] == 1
    assert metrics["hardware_flops"]["value"] == sum(metrics["hardware_flops"]["ranks"])
    assert metrics["step_time_s"]["value"] >= median(metrics["step_time_s"]["samples"]) > 0
    assert not any("profiled" in flag for flag in metrics["operator_calls"]["flags"])


def test_workload_of_one_rank_refuses_more(foldperf, tmp_path):
    sweep = tmp_path / "s.toml"
    sweep.write_text(
        '[[case]]\nworkload = "operators"\nranks = 2\naxes = { preset = "tiny" }\n',
        encoding="utf-8",
    )
    refused = foldperf("run", sweep, check=2)
    assert "operators runs on one rank alone" in refused.stderr


def test_selection_covers_every_workload_that_has_it(tmp_path):
    found = catalogue()
    path = tmp_path / "all.toml"
    path.write_text('[[case]]\nworkload = "*"\nselection = "quick"\n', encoding="utf-8")
    having = {name for name in found.workloads if found[name].selections["quick"]}
    assert {case.workload for case in read_sweep(path, found).cases} == having
    assert len(having) > 4
    for path in shipped_sweeps().values():
        assert read_sweep(path, found).cases
