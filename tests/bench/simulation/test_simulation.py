"""Simulated cases: their stored form, their records, and the command."""

import json

import pytest
from support.records import VALIDATOR

from bench.cli import main
from bench.records.metrics import METRICS, OF_SIMULATIONS
from bench.simulation.simulated import simulated_record, simulated_values
from bench.simulation.stored import from_bytes, to_bytes
from bench.simulation.traces import Simulated, SimulatedCase, facts_of, simulate, trace_of
from refsys.costs.storages import Peak
from refsys.costs.trace import Trace
from workloads.catalogue import catalogue
from workloads.errors import WorkloadError
from workloads.predicted_costs import predicted_costs

TRUNK = catalogue()["alphafold3-trunk"]
TEXT = catalogue()["transformer"]
AXES = {"preset": "tiny", "entry": "synthetic", "tokens": 16, "alignment_rows": 4}
TEXT_AXES = {"preset": "bloom-tiny", "tokens": 32}


def case(data_ranks=1, **axes):
    return SimulatedCase(TRUNK.name, TRUNK.configure(AXES | axes), data_ranks)


def text(data_ranks=1, **axes):
    """Return a case whose trace takes little time."""
    return SimulatedCase(TEXT.name, TEXT.configure(TEXT_AXES | axes), data_ranks)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Give each test a cache folder of its own."""
    monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "traces"


@pytest.fixture(scope="module")
def divided():
    """Trace of two data ranks by two context ranks, computed without the cache."""
    return trace_of(case(2, context_ranks=2), remember=False)


class TestStoredTraces:
    def test_trace_survives_the_round_trip(self, divided):
        assert from_bytes(to_bytes(divided)) == divided
        assert divided.communication
        assert divided.kernels == {}

    def test_equal_traces_give_equal_bytes(self, divided):
        stored = [to_bytes(trace_of(text(2), remember=False)) for _ in range(2)]
        assert stored[0] == stored[1] != to_bytes(divided)

    @pytest.mark.parametrize("damage", [b"", b"\x1f\x8b", b"{}", "cut"])
    def test_damaged_trace_is_refused(self, damage):
        content = to_bytes(Trace({}, Peak(0, {}, {}), {}))
        with pytest.raises(ValueError, match=r"not a trace|Expecting"):
            from_bytes(content[:-9] if damage == "cut" else damage)

    def test_damaged_file_of_the_cache_is_replaced(self, cache):
        whole = trace_of(text())
        (path,) = cache.iterdir()
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        assert trace_of(text()) == whole
        assert path.read_bytes() == content

    def test_cache_has_a_file_for_each_case(self, cache):
        cases = [text(), text(2), text(tokens=64), text()]
        costs = simulate(cases, jobs=1)
        assert len(list(cache.iterdir())) == 3
        assert costs[0] == costs[3] != costs[2]


class TestRanks:
    def test_data_and_context_ranks_communicate_in_their_own_groups(self, divided):
        kinds = {(key.kind, key.ranks, key.operator) for key in divided.communication}
        assert ("all_reduce", 4, "gradients") in kinds
        assert {ranks for kind, ranks, _ in kinds if kind == "all_to_all"} == {2}
        gradients = sum(
            total.payload_bytes
            for key, total in divided.communication.items()
            if key.operator == "gradients"
        )
        parameters = TRUNK.static_costs(case().config).parameters
        assert 0.98 * parameters < gradients / 4 <= parameters, "few have no gradient"

    def test_exchanges_do_not_depend_on_the_data_ranks(self, divided):
        one = trace_of(case(context_ranks=2))
        exchanges = [
            {k: t for k, t in trace.communication.items() if k.kind == "all_to_all"}
            for trace in (one, divided)
        ]
        assert exchanges[0] == exchanges[1]
        assert all(total.messages for total in exchanges[0].values())

    def test_workload_of_one_rank_is_refused_on_several(self):
        operators = catalogue()["operators"]
        config = operators.configure({"preset": "tiny", "tokens": 16})
        with pytest.raises(WorkloadError, match="operators averages no gradients; take ranks=1"):
            predicted_costs(operators, config, ranks=2)


class TestRecords:
    def test_record_is_valid_and_says_that_it_is_traced(self, divided):
        divided_case = case(2, context_ranks=2)
        record = simulated_record(divided_case, Simulated(divided, facts_of(divided_case)))
        VALIDATOR.validate(record.as_dict())
        assert record.status == "ok"
        assert record.workload.ranks == 4
        assert {metric.method for metric in record.metrics.values()} == {"traced with shapes alone"}
        missing = [name for name, m in record.metrics.items() if m.quality != "counted"]
        assert missing == ["step_time_s"]
        assert record.devices[0].name == "simulated"
        assert record.value("peak_tracked_bytes") == divided.peak.nbytes

    def test_breakdowns_add_up_to_their_metrics(self, divided):
        values, breakdown = simulated_values(divided)
        for metric, table in (
            ("hardware_flops", "flops_by_operator"),
            ("hardware_flops", "flops_by_phase"),
            ("operator_calls", "calls_by_operator"),
            ("collective_bytes", "collective_bytes"),
            ("collective_calls", "collective_calls"),
            ("collective_messages", "collective_messages"),
            ("peak_tracked_bytes", "peak_bytes_by_module"),
        ):
            assert values[metric].value == sum(breakdown[table].values()), table

    def test_metrics_of_simulations_alone_are_registered(self):
        assert set(METRICS) >= OF_SIMULATIONS


class TestCommand:
    def words(self, *more):
        axes = [f"--{name}={value}" for name, value in TEXT_AXES.items()]
        return ["simulate", TEXT.name, *axes, "--jobs", "1", *more]

    def test_json_is_the_same_for_every_run(self, capsys):
        outputs = []
        for more in ([], [], ["--no-cache"]):
            assert main(self.words("--json", "--tokens", "64", "32", *more)) == 0
            outputs.append(capsys.readouterr().out)
        assert outputs[0] == outputs[1] == outputs[2]
        one, two = json.loads(outputs[0])
        assert one["method"] == "traced with shapes alone"
        assert (one["workload"]["config"]["tokens"], two["workload"]["ranks"]) == (64, 1)
        peak = "peak_tracked_bytes"
        assert two["metrics"][peak]["value"] < one["metrics"][peak]["value"]

    def test_table_has_a_line_for_each_case(self, capsys):
        assert main(self.words("--data-ranks", "1", "4")) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4
        assert "data_ranks=4" in lines[2]
        assert lines[-1].endswith("nothing was measured")

    def test_records_are_appended_once(self, tmp_path, capsys):
        for _ in range(2):
            assert main(self.words("--results", str(tmp_path))) == 0
        (line,) = (
            (tmp_path / "runs/simulation/records.jsonl").read_text(encoding="utf-8").splitlines()
        )
        assert json.loads(line)["sweep"] == "simulation"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--tokens"], "--tokens has no value"),
            (["--tokens", "x"], "tokens='x' is not of type int"),
            (["--no-such-axis", "1"], "has no axis 'no_such_axis'"),
        ],
    )
    def test_bad_input_is_one_line_and_status_2(self, words, message, capsys):
        assert main(self.words(*words)) == 2
        assert message in capsys.readouterr().err
