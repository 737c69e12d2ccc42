"""Schedule of a run: a budget is never overrun by more than a case's time limit."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from support.clock import Clock

from bench.run.durations import Durations
from bench.run.measure import Protocol
from bench.run.schedule import Budget, Schedule
from bench.run.sweep import Case
from workloads.catalogue import catalogue

CATALOGUE = catalogue()
OPERATORS, PIPELINE = CATALOGUE["operators"], CATALOGUE["pipeline"]
LIMIT_S = 300.0


def cases(sizes, backends=("reference", "compiled")):
    return [
        Case(
            title=f"{backend} {size}",
            workload="operators",
            config=(config := OPERATORS.configure({"tokens": size, "backend": backend})),
            axes=OPERATORS.values(config),
            device="cpu",
            ranks=1,
            replicate=0,
            seed=0,
            protocol=Protocol(),
        )
        for size in sizes
        for backend in backends
    ]


def run(found, seconds, budget_s):
    """Run cases that take so long; returns their numbers and the time that passed."""
    clock, done = Clock(), []
    schedule = Schedule(found, CATALOGUE, Durations(accelerator=False), Budget(budget_s, clock))
    start = clock.now
    while (number := schedule.next()) is not None:
        took = min(seconds[number], LIMIT_S)
        clock.now += took
        done.append(number)
        schedule.ended(number, "timeout" if took == LIMIT_S else "ok", took)
    return done, clock.now - start


@given(
    st.lists(st.integers(8, 512), min_size=1, max_size=6, unique=True),
    st.data(),
    st.floats(0.5, 5000.0),
)
def test_budget_is_overrun_by_less_than_the_limit_of_a_case(sizes, data, budget_s):
    found = cases(sizes)
    seconds = [data.draw(st.floats(0.1, 2 * LIMIT_S)) for _ in found]
    done, passed = run(found, seconds, budget_s)
    assert passed <= budget_s + LIMIT_S
    assert len(set(done)) == len(done)
    assert run(found, seconds, budget_s) == (done, passed), "a function of what happens"


def test_budget_is_kept_once_durations_are_known():
    """Cases of a power law: from the third size on no estimate is too low."""
    found = cases([64, 128, 256, 512, 1024], ["reference"])
    seconds = [case.config.tokens / 10 for case in found]
    done, passed = run(found, seconds, 160.0)
    assert passed <= 160.0
    assert len(done) == 4, "64, 128 and 256 still fit beside 1,024"


def test_budget_that_suffices_runs_everything():
    found = cases([8, 16])
    assert sorted(run(found, [5.0] * 4, 1e6)[0]) == [0, 1, 2, 3]


def test_order_is_the_sweeps_without_a_budget():
    found = cases([8, 16, 24])
    schedule = Schedule(found, CATALOGUE, Durations(accelerator=False))
    schedule.recorded(2, "ok")
    schedule.leave_out(0)
    order = []
    while (number := schedule.next()) is not None:
        order.append(number)
        schedule.ended(number, "ok", 1.0)
    assert order == [1, 3, 4, 5]


def test_description_has_number_time_and_origin_of_the_estimate():
    found = cases([8, 16])
    durations = Durations(accelerator=False)
    schedule = Schedule(found, CATALOGUE, durations)
    line = schedule.description("{:.0f} s".format)
    assert line == "4 cases to run, about 134 s, estimated from the protocol alone"
    schedule.ended(0, "ok", 10.0)
    line = schedule.description("{:.0f} s".format)
    assert line.startswith("3 cases to run, about ")
    assert line.endswith(", estimated from earlier cases on such a machine")
    config = PIPELINE.configure({})
    axes = PIPELINE.values(config)
    other = replace(found[0], workload="pipeline", config=config, axes=axes)
    schedule = Schedule([*found, other], CATALOGUE, durations, Budget(60.0, Clock()))
    line = schedule.description("{:.0f} s".format)
    assert "and, for 1 of them, the protocol alone; the most informative first, for 60 s" in line
