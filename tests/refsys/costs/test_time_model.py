"""Time model: bounds, monotonicity, and terms that are unknown."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.synthetic_traces import FAST, MACHINE, OPERATORS, PHASES, SLOW, exchange, step

from refsys.costs.achievable import BYTES, EXPONENTIALS, HOST, PRODUCTS, RESOURCES, assumed
from refsys.costs.devices import named_device, named_link, short_names
from refsys.costs.links import ACROSS, INSIDE
from refsys.costs.machines import machine_of
from refsys.costs.operator_kinds import _KIND
from refsys.costs.roofline import DeviceRates, Work, roofline
from refsys.costs.time_model import COMMUNICATION, LAUNCHES, TERMS, predict_time
from refsys.costs.trace import Cost, Origin, Trace
from refsys.ops.backend import OPERATORS as FUSED

TRACE = step(exchange())
LINKS = {"link": FAST, "inter_link": SLOW}


def seconds(trace=TRACE, machine=MACHINE, **options):
    return predict_time(trace, machine, **LINKS | options).known_s


def with_costs(trace, change):
    return replace(trace, costs={origin: change(cost) for origin, cost in trace.costs.items()})


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    "faster",
    [
        replace(MACHINE, flops={**MACHINE.flops, "bfloat16": 8e14}),
        replace(MACHINE, flops={**MACHINE.flops, "float32": 1e14}),
        replace(MACHINE, bytes_s=4e12),
        replace(MACHINE, exponentials_s=8e12),
    ],
    ids=["bfloat16", "float32", "bytes", "exponentials"],
)
def test_faster_device_is_never_slower(faster, graph):
    assert seconds(machine=faster, graph=graph) <= seconds(graph=graph)
    assert seconds(step(), faster, graph=True) < seconds(step(), graph=True)


@pytest.mark.parametrize("quantity", ["calls", "launches", "flops", "nbytes", "exponentials"])
def test_more_work_never_takes_less_time(quantity):
    more = with_costs(TRACE, lambda cost: replace(cost, **{quantity: 3 * getattr(cost, quantity)}))
    assert seconds(more) >= seconds()


@pytest.mark.parametrize("resource", RESOURCES)
@pytest.mark.parametrize("kind", assumed().kinds)
def test_higher_fraction_is_never_slower(resource, kind):
    fractions = assumed()
    raised = replace(fractions.kinds[kind], **{resource: 1.0})
    higher = replace(fractions, kinds={**fractions.kinds, kind: raised})
    assert seconds(fractions=higher) <= seconds(fractions=fractions)


@pytest.mark.parametrize("graph", [False, True])
def test_time_is_at_least_the_roofline_bound_of_each_dtype(graph):
    for dtype, rate in MACHINE.flops.items():
        flops = sum(cost.flops for o, cost in TRACE.costs.items() if o.dtype == dtype)
        work = Work(
            flops=flops, nbytes=TRACE.total("nbytes"), exponentials=TRACE.total("exponentials")
        )
        rates = DeviceRates(flops_s=rate, bytes_s=2e12, exponentials_s=4e12)
        assert seconds(graph=graph) >= roofline(work, rates).bound_s


def test_terms_kinds_and_phases_each_add_up():
    prediction = predict_time(TRACE, MACHINE, **LINKS)
    assert sum(prediction.by_term.values()) == pytest.approx(prediction.known_s)
    assert sum(prediction.by_kind.values()) == pytest.approx(prediction.known_s)
    assert sum(phase.seconds for phase in prediction.phases.values()) == prediction.known_s
    assert tuple(prediction.phases) == PHASES
    assert set(prediction.by_term) <= set(TERMS)
    assert {PRODUCTS, BYTES, EXPONENTIALS, LAUNCHES, COMMUNICATION} <= set(prediction.by_term)
    assert prediction.step_s == prediction.known_s


def test_host_counts_only_where_it_is_longer_and_never_in_a_graph():
    slow_host = replace(assumed(), call_s=1.0)
    eager = predict_time(TRACE, MACHINE, **LINKS, fractions=slow_host)
    assert eager.by_term[HOST] > 0.9 * eager.known_s
    for phase in eager.phases.values():
        assert phase.device_s + phase.host_exposed_s == pytest.approx(phase.host_s)
    graph = predict_time(TRACE, MACHINE, **LINKS, fractions=slow_host, graph=True)
    assert HOST not in graph.by_term
    assert (
        HOST
        not in predict_time(
            TRACE, MACHINE, **LINKS, fractions=replace(assumed(), call_s=1e-9, kernel_s=1e-9)
        ).by_term
    )


def test_processor_takes_turns_between_calls_and_work_and_hides_nothing():
    processor = replace(MACHINE, is_host=True, exponentials_s=None)
    prediction = predict_time(TRACE, processor, **LINKS, exchange_chunks=8)
    for phase in prediction.phases.values():
        assert phase.host_exposed_s == phase.host_s > 0
        assert phase.hidden_s == 0
    assert not prediction.unknown
    assert LAUNCHES not in prediction.by_term


def test_recomputation_is_part_of_the_backward_pass():
    recomputed = step(phases=("forward", "backward", "recompute"))
    prediction = predict_time(recomputed, MACHINE)
    assert tuple(prediction.phases) == ("forward", "backward")
    one, two = (prediction.phases[phase] for phase in ("forward", "backward"))
    assert two.device_s == pytest.approx(2 * one.device_s)


def test_allocations_and_collectives_take_no_device_time():
    idle = Trace(
        {
            Origin("forward", "", "aten.empty.memory_format", ""): Cost(calls=1, nbytes=10**12),
            Origin("forward", "", "c10d.allreduce_.default", "float32"): Cost(
                calls=1, launches=1, nbytes=10**12
            ),
        },
        TRACE.peak,
        {"forward": TRACE.peak},
    )
    assert predict_time(idle, MACHINE).phases["forward"].device_s == 0


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (replace(MACHINE, flops={"float32": 5e13}), "products of bfloat16 on a device"),
        (replace(MACHINE, flops={"bfloat16": 4e14}), "products of float32 on a device"),
        (replace(MACHINE, bytes_s=None), "bytes on a device"),
        (replace(MACHINE, exponentials_s=None), "exponentials on a device"),
    ],
)
def test_missing_rate_is_a_named_unknown(machine, name):
    prediction = predict_time(TRACE, machine, **LINKS)
    assert prediction.unknown == (name,)
    assert prediction.step_s is None
    assert 0 < prediction.known_s <= seconds()


def test_missing_link_is_a_named_unknown_where_it_is_used():
    prediction = predict_time(TRACE, MACHINE, ranks_per_node=8)
    assert set(prediction.unknown) == {INSIDE, ACROSS}
    assert predict_time(TRACE, MACHINE, ranks_per_node=8, link=FAST).unknown == (ACROSS,)
    assert not predict_time(TRACE, MACHINE, ranks_per_node=16, link=FAST).unknown
    assert not predict_time(step(), MACHINE).unknown


def test_flops_without_a_dtype_or_a_formula_are_unknown():
    untyped = step(operators={"aten.mm.default": (1, 1e9, 1e6, 0, "")})
    (name,) = predict_time(untyped, MACHINE).unknown
    assert name == "products of an unknown dtype on a device"
    unpriced = replace(TRACE, unpriced=("other.product.default",))
    assert predict_time(unpriced, MACHINE, **LINKS).unknown == ("FLOPs of other.product.default",)


def test_all_is_assumed_until_it_is_fitted_on_the_device():
    trace = step()
    prediction = predict_time(trace, MACHINE)
    assert prediction.assumed_s == pytest.approx(prediction.known_s)
    assert prediction.accuracy_text == "no recorded pair"
    fractions = assumed()
    kinds = {fractions.kind_of(operator) for operator in OPERATORS}
    everything = dict.fromkeys((*kinds, HOST), 1.0)
    fitted = fractions.fitted(MACHINE.name, everything, records=("a",), accuracy=None)
    known = predict_time(trace, MACHINE, fractions=fitted)
    assert known.assumed_s == 0
    assert known.known_s == prediction.known_s
    elsewhere = predict_time(trace, replace(MACHINE, name="another"), fractions=fitted)
    assert elsewhere.assumed_s == pytest.approx(prediction.known_s)
    one = fractions.fitted(MACHINE.name, {"linear": 2.0}, records=("a",), accuracy=None)
    doubled = predict_time(trace, MACHINE, fractions=one, graph=True)
    usual = predict_time(trace, MACHINE, graph=True)
    assert doubled.by_kind["linear"] == 2 * usual.by_kind["linear"]
    assert doubled.assumed_s == pytest.approx(doubled.known_s - doubled.by_kind["linear"])


def test_measured_rate_is_not_reduced_to_the_attainable_share():
    trace = step(operators={"aten.mul.Tensor": (1, 0, 1e12, 0, "float32")})
    machine = replace(MACHINE, bytes_s=None)
    measured = machine.with_achieved(flops={}, bytes_s=MACHINE.bytes_s)
    share = assumed().attainable[BYTES]
    by_sheet, by_measurement = (
        predict_time(trace, m, graph=True).known_s for m in (MACHINE, measured)
    )
    assert by_measurement == pytest.approx(share * by_sheet)


def test_assumptions_cover_every_kind_and_operator_with_a_reason():
    fractions = assumed()
    assert set(_KIND.values()) <= set(fractions.kinds)
    for kind in fractions.kinds.values():
        assert kind.reason
        assert all(0 < kind.of(resource) <= 1 for resource in RESOURCES)
    fused = {name for name, operator in FUSED.items() if "triton" in operator.kernels}
    assert "triangle_attention" in fused
    assert fractions.kind_of("foldperf.triangle_attention_backward_bias.default") == (
        "triangle_attention"
    )
    assert fractions.kind_of("foldperf.layer_norm_linear_backward.default") == "layer_norm_linear"
    assert fractions.kind_of("foldperf.something.default") == "other"
    assert fractions.kind_of("aten.bmm.default") == "batched_matmul"


def test_documented_fractions_are_those_in_use():
    page = (Path(__file__).parents[3] / "docs" / "time-model.md").read_text(encoding="utf-8")
    for name, kind in assumed().kinds.items():
        exponentials = f"{kind.exponentials:g}" if kind.exponentials < 1 else "–"
        row = f"| `{name}` | {kind.products:g} | {kind.bytes:g} | {exponentials} | {kind.reason} |"
        assert row in page
    fractions = assumed()
    words = " ".join(page.split())
    for share, what in (
        (fractions.attainable[PRODUCTS], "of products"),
        (fractions.attainable[BYTES], "of bytes"),
        (fractions.link_bytes, "of their bandwidth"),
        (fractions.power["idle"], "of the limit without work"),
    ):
        assert f"{share:g} {what}" in words
    for seconds_, what in (
        (fractions.launch_s, "µs, "),
        (fractions.graph_launch_s, "µs in a graph"),
        (fractions.call_s, "µs, and a kernel"),
        (fractions.kernel_s, "µs more"),
    ):
        assert f"{1e6 * seconds_:g} {what}" in words
    for name in short_names():
        assert f"`{name}`" in page


@pytest.mark.parametrize("name", short_names())
def test_every_device_of_the_command_line_can_be_predicted(name):
    prediction = predict_time(TRACE, machine_of(named_device(name)))
    assert not prediction.unknown
    assert prediction.step_s > 0


class TestHostCopies:
    """Checkpoints that move to the host take its link, beside the device's work."""

    TRACE = step(operators=OPERATORS | {"foldperf.to_host.default": (4, 0, 2e9, 0, "bfloat16")})

    def test_copies_are_hidden_where_there_is_work(self):
        machine = replace(MACHINE, host_link="pcie-5")
        without = predict_time(step(), machine)
        time = predict_time(self.TRACE, machine)
        forward = time.phases["forward"]
        link = named_link("pcie-5")
        share = assumed().link_bytes
        assert forward.hidden_s + forward.communication_s == pytest.approx(
            4 * (1e9 / (link.bytes_s * share) + link.latency_s)
        )
        assert forward.device_s == without.phases["forward"].device_s

    def test_unknown_link_to_the_host_is_named(self):
        time = predict_time(self.TRACE, MACHINE)
        assert time.unknown == ("link to the host of a device",)
        assert time.step_s is None
