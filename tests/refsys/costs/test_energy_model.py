"""Energy model: bounds by idle power and power limit."""

from dataclasses import replace

import pytest
from support.synthetic_traces import MACHINE, step

from refsys.costs.achievable import BYTES, PRODUCTS
from refsys.costs.energy_model import IDLE, predict_energy
from refsys.costs.time_model import predict_time

TRACE = step()


def energy(machine=MACHINE, trace=TRACE, **options):
    return predict_energy(trace, machine, predict_time(trace, machine, **options))


@pytest.mark.parametrize("graph", [False, True])
def test_energy_lies_between_idle_power_and_the_limit(graph):
    prediction = energy(graph=graph)
    assert prediction.known_j >= MACHINE.idle_w * prediction.time_s
    assert prediction.known_j <= MACHINE.power_w * prediction.time_s * (1 + 1e-12)
    assert MACHINE.idle_w < prediction.mean_power_w <= MACHINE.power_w * (1 + 1e-12)


def test_terms_add_up_and_step_without_work_costs_idle_power():
    prediction = energy()
    assert sum(prediction.by_term.values()) == pytest.approx(prediction.step_j)
    assert set(prediction.by_term) == {IDLE, PRODUCTS, BYTES}
    tiny = step(operators={"aten.mul.Tensor": (1000, 0, 4, 0, "float32")})
    waiting = energy(trace=tiny)
    assert waiting.known_j == pytest.approx(MACHINE.idle_w * waiting.time_s, rel=1e-3)


def test_energy_follows_work_at_equal_time():
    time = predict_time(TRACE, MACHINE)
    less = step(operators={"aten.mul.Tensor": (200, 0, 5e8, 0, "bfloat16")})
    whole, part = (predict_energy(t, MACHINE, time).known_j for t in (TRACE, less))
    assert part < whole


def test_flop_of_a_slower_dtype_costs_more():
    def products(dtype):
        trace = step(operators={"aten.mm.default": (1, 1e12, 1e6, 0, dtype)})
        return energy(trace=trace).by_term[PRODUCTS]

    ratio = MACHINE.flops["bfloat16"] / MACHINE.flops["float32"]
    assert products("float32") == pytest.approx(ratio * products("bfloat16"))


def test_assumptions_are_named():
    assert "idle power" not in energy().assumed
    unsourced = energy(replace(MACHINE, idle_w=None))
    assert "idle power" in unsourced.assumed
    assert 0 < unsourced.by_term[IDLE] < MACHINE.power_w * unsourced.time_s


def test_missing_power_limit_or_rate_is_a_named_unknown():
    prediction = energy(replace(MACHINE, power_w=None))
    assert prediction.unknown == ("power limit of a device",)
    assert prediction.step_j is None
    assert prediction.mean_power_w is None
    slow = energy(replace(MACHINE, bytes_s=None))
    assert slow.unknown == ("bytes on a device",)
    assert slow.step_j is None
