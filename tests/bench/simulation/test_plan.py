"""Plans on scripted traces: order of savings, choice, way out; and the command on real ones."""

import json

import pytest
from support.synthetic_traces import trace_with_peak

from bench.cli import main
from bench.simulation.plan import (
    INFER,
    SAVINGS,
    TRAIN,
    Request,
    cases_of,
    divisions,
    make_plan,
)
from bench.simulation.predicted import Target
from bench.simulation.traces import trace_of
from refsys.costs.devices import short_names
from workloads.catalogue import catalogue
from workloads.errors import WorkloadError

GB = 10**9
H200 = Target.named("h200")
SMALL = {"preset": "tiny", "alignment_rows": "4", "samples": "2", "precision": "float32"}


def request(goal=TRAIN, tokens=1024, devices=8, **axes):
    return Request(goal=goal, tokens=tokens, devices=devices, axes=axes)


def needing(base, asked=None):
    """Return a tracing whose peaks fall with ranks and savings from `base` bytes on one rank."""

    def tracing(case):
        values = catalogue()[case.workload].values(case.config)
        share = 1 / values["context_ranks"]
        share *= 1.0 if values.get("checkpointing", True) else 4.0
        share *= 0.5 if values["chunk_rows"] else 1.0
        share *= 0.5 if values.get("offload_checkpoints") else 1.0
        if asked is not None:
            asked.append(case)
        return trace_with_peak(int(base * share), seconds=1.0 + 1 / share)

    return tracing


class TestSavings:
    @pytest.mark.parametrize("goal", [TRAIN, INFER])
    def test_each_saving_is_a_case_of_its_own(self, goal):
        cases = [case for case, _ in cases_of(request(goal), 4, 2)]
        assert len(cases) == len(SAVINGS[goal])
        assert len({str(case.config) for case in cases}) == len(cases)
        assert {case.ranks for case in cases} == {8 if goal == TRAIN else 4}

    def test_parameters_of_one_rank_are_not_divided(self):
        names = [name for _, name in cases_of(request(), 1, 1)]
        assert "parameters divided" not in names

    def test_chosen_axes_take_precedence(self):
        configs = [c.config.run for c, _ in cases_of(request(chunk_rows="8"), 1, 1)]
        assert {run.memory.chunk_rows for run in configs} == {8}

    def test_unknown_axis_is_refused(self):
        with pytest.raises(WorkloadError, match="has no axis 'rows'"):
            next(cases_of(request(rows="8"), 1, 1))

    def test_context_ranks_divide_the_devices(self):
        assert divisions(request(devices=32)) == [1, 2, 4, 8, 16, 32]
        assert divisions(request(devices=12)) == [1, 2, 4, 12]
        assert divisions(request(devices=12, tokens=3)) == [1, 2]


class TestChoice:
    def test_first_saving_that_fits_ends_the_search(self):
        asked = []
        plan = make_plan(request(devices=1), H200, needing(100 * GB, asked))
        assert [c.saving for c in plan.candidates if c.fits] == ["blocks recomputed"]
        assert len(asked) == 2
        assert plan.candidates[-1].saving == "activations saved"

    def test_every_choice_fits_when_its_case_is_traced_whole(self):
        tracing = needing(700 * GB)
        plan = make_plan(request(), H200, tracing)
        assert {c.context_ranks for c in plan.fitting} == {2, 4, 8}
        for candidate in plan.fitting:
            peak = tracing(candidate.case).peak.nbytes
            assert H200.memory_needed(peak, candidate.devices) <= H200.entry.memory_bytes
        rates = [candidate.examples_h for candidate in plan.fitting]
        assert rates == sorted(rates, reverse=True)
        assert plan.fastest is plan.fitting[0]
        assert plan.thriftiest in plan.fitting

    def test_examples_of_a_batch_are_counted(self):
        one, two = (
            make_plan(request(batch=batch), H200, needing(300 * GB)).fastest for batch in "12"
        )
        assert two.step_s == one.step_s
        assert two.examples_h == 2 * one.examples_h
        assert two.example_j == one.example_j / 2

    def test_fewest_devices_are_found_without_a_number(self):
        plan = make_plan(request(devices=0), H200, needing(1500 * GB))
        assert plan.fastest.devices == plan.fastest.context_ranks == 4
        assert not plan.way_out

    def test_way_out_of_an_impossible_request_fits(self):
        tracing = needing(4000 * GB)
        plan = make_plan(request(devices=2), H200, tracing)
        assert not plan.fitting
        assert plan.fastest is plan.thriftiest is None
        devices = int(plan.way_out.split()[0])
        assert devices == 8
        assert make_plan(request(devices=devices), H200, tracing).fitting

    def test_shorter_length_is_named_where_no_number_of_devices_suffices(self):
        plan = make_plan(request(devices=2, tokens=4), H200, needing(10**6 * GB))
        assert "tokens fit" in plan.way_out

    def test_more_memory_of_a_device_never_costs_a_choice(self):
        small, large = (
            make_plan(request(), Target.named(name), needing(200 * GB))
            for name in ("a100-40", "a100-80")
        )
        assert {c.context_ranks for c in small.fitting} <= {c.context_ranks for c in large.fitting}


class TestCommand:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path))

    def words(self, *more):
        axes = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
        axes = [word.replace("alignment_rows", "alignment-rows") for word in axes]
        return ["plan", "--tokens", "16", "--jobs", "1", *axes, *more]

    def test_plan_of_eight_devices_takes_one_trace_each(self, capsys):
        """A case that is said to fit has the same peak when it is traced without the cache."""
        assert main(self.words("--goal", "training", "--json")) == 0
        plans = json.loads(capsys.readouterr().out)
        assert len(plans) == len(short_names()) > 8
        peaks = {plan["fastest"]["peak_bytes"] for plan in plans}
        assert len(peaks) == 1
        config = catalogue()["alphafold3"].configure(plans[0]["fastest"]["config"])
        (case, _), *_ = cases_of(
            Request(goal=TRAIN, tokens=16, devices=1, axes=SMALL), ranks=1, groups=1
        )
        assert case.config == config
        assert trace_of(case, remember=False).peak.nbytes == peaks.pop()

    def test_table_names_choice_and_assumptions(self, capsys):
        assert main(self.words("--goal", "training", "--device", "h200", "mi250")) == 0
        out, err = capsys.readouterr()
        assert out.count("fastest") == 2
        assert "training of 16 tokens on AMD Instinct MI250" in out
        assert "nothing was measured" in err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--device", "h9000"], "device 'h9000' is not listed"),
            (["--no-such", "1"], "'no_such' is no axis of"),
        ],
    )
    def test_bad_input_is_one_line_and_status_2(self, words, message, capsys):
        assert main(self.words(*words)) == 2
        assert message in capsys.readouterr().err
