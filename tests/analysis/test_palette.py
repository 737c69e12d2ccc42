"""Palette: no two registered phases, states or kinds of operators look alike."""

from itertools import combinations

import pytest
from support.paper_records import recorded

from analysis.memory import STATES as PLOTTED_STATES
from analysis.methods import METHODS
from analysis.palette import (
    KINDS,
    MAX_UNREGISTERED,
    MODULES,
    PHASES,
    STATES,
    SYSTEMS,
    fills,
    registered,
    system_style,
)
from refsys.costs.operator_kinds import by_operator_kind

NAMED, ROLES = ("state", "phase", "kind", "module"), ("state", "phase", "kind")
_PREFIXES = {
    "phase": ("phase_time_s.", "predicted_phase_time_s.", "predicted_phase_peak_bytes."),
    "state": ("peak_tracked_bytes.", "predicted_peak_bytes."),
    "kind": ("operator_calls.", "kernel_launches."),
}


def test_no_two_phases_states_or_kinds_share_a_fill():
    every = [fill for role in NAMED for fill in registered(role).values()]
    assert len(every) == len(STATES) + len(PHASES) + len(KINDS) + len(MODULES)
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    "shown",
    [
        {"MSA products", "transition", "single attention", "atom attention"},
        {"outer product mean", "parameters", "pair weighted averaging", "attention pair bias"},
    ],
)
def test_modules_of_one_figure_differ_in_hatch(shown):
    shared = {"triangle attention", "triangle multiplication", "diffusion transformer", "other"}
    filled = fills("module", sorted(shown | shared))
    assert len({fill.hatch for fill in filled.values()}) == len(filled)


def test_unregistered_names_take_fills_that_no_registered_name_has():
    names = [f"module {k}" for k in range(MAX_UNREGISTERED)]
    reserve = fills("module", names)
    assert len(set(reserve.values())) == MAX_UNREGISTERED >= 12
    assert not set(reserve.values()) & {f for role in NAMED for f in registered(role).values()}


@pytest.mark.parametrize("role", ROLES)
def test_every_recorded_name_is_registered(role):
    known = set(registered(role))
    for record in recorded():
        names = {
            metric.removeprefix(prefix)
            for metric in record["metrics"]
            for prefix in _PREFIXES[role]
            if metric.startswith(prefix)
        }
        if role == "kind":
            names |= set(by_operator_kind(record["breakdown"].get("calls_by_operator", {})))
            names |= set(record["notes"].get("predicted_s_by_kind", {}))
        assert names <= known, record["workload"]["name"]


def test_plotted_states_are_the_registered_ones():
    assert PLOTTED_STATES == STATES


def test_method_and_system_tell_any_two_lines_apart():
    looks = [
        (style["color"], style["marker"], style["fillstyle"], str(style["linestyle"]))
        for system in SYSTEMS
        for method in METHODS
        for style in [system_style(system, method)]
    ]
    assert all(a != b for a, b in combinations(looks, 2))


def test_only_measured_numbers_have_full_markers_on_full_lines():
    for method in METHODS:
        style = system_style(SYSTEMS[0], method)
        is_full = (style["fillstyle"], style["linestyle"]) == ("full", "-")
        assert is_full == (method == "measured")
