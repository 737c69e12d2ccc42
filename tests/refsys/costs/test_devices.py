"""Tables of devices and links: complete, sourced, and consistent."""

import re

import pytest

from refsys.costs.devices import (
    candidates,
    links,
    listed,
    listed_peak,
    listed_rates,
    named_device,
    named_link,
    short_names,
    table,
)
from refsys.errors import ArgumentError

DTYPES = {"bfloat16", "float16", "float32", "tensorfloat32", "float64"}
ENTRIES = {entry.name: entry for entry in table()}
each_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
RATED = {name: entry for name, entry in ENTRIES.items() if entry.rates()}
each_link = pytest.mark.parametrize("link", links().values(), ids=links())
each_with_rates = pytest.mark.parametrize("entry", RATED.values(), ids=RATED)


@each_entry
def test_entry_is_complete_positive_and_sourced(entry):
    assert set(entry.flops) <= DTYPES
    assert entry.flops
    assert min(*entry.flops.values(), entry.bytes_s) > 0
    assert (entry.units is None) == (entry.clock_hz is None) == (entry.exponentials is None)
    assert entry.maker in {"nvidia", "amd"}
    assert entry.name.startswith({"nvidia": "NVIDIA ", "amd": "AMD "}[entry.maker])
    assert re.search(r"(data sheet|white paper)", entry.source), "a document of the maker"
    assert re.search(r"\b20\d\d\b", entry.source), "with its year"


@each_entry
def test_name_and_aliases_resolve_in_any_case(entry):
    for name in (entry.name, *entry.aliases):
        assert entry in candidates(name.upper())
        assert listed(name, entry.units) == entry
        assert listed_rates(name, entry.units) == entry.rates()
    assert listed(entry.name) == entry, "a name of its own needs no units"


@each_entry
def test_half_precisions_have_equal_rates_and_float32_a_lower_one(entry):
    assert entry.flops["bfloat16"] == entry.flops["float16"]
    assert entry.flops["float32"] < entry.flops["float16"]
    assert entry.flops.get("float64", 0) <= entry.flops["float32"]


@each_entry
def test_tensorfloat32_has_half_the_rate_of_bfloat16(entry):
    """Rates accumulate in float32: at least twice those of float32, save where that is as fast."""
    rate = entry.flops.get("tensorfloat32")
    if rate is not None:
        assert rate == pytest.approx(entry.flops["bfloat16"] / 2, rel=0.02)
        assert rate >= entry.flops["float32"]


@each_entry
def test_memory_and_power_are_plausible(entry):
    assert entry.memory_bytes is not None
    assert 1 < entry.memory_bytes / entry.bytes_s * 1e3 < 100, "ms to read the memory once"
    if entry.power_w is not None:
        assert 0.1e12 < entry.flops["bfloat16"] / entry.power_w < 4e12, "FLOPs a joule"
        assert entry.idle_w is None or 0 < entry.idle_w < entry.power_w


@each_entry
def test_links_of_a_device_are_listed(entry):
    for name in filter(None, (entry.link, entry.network)):
        assert named_link(name).bytes_s > 0
    if entry.link:
        assert named_link(entry.link).devices
    if entry.network:
        assert named_link(entry.network).devices is None


@each_link
def test_link_is_sourced_and_plausible(link):
    assert re.search(r"(data sheet|white paper|documentation)", link.source)
    assert re.search(r"\b20\d\d\b", link.source)
    assert 1e10 < link.bytes_s < 2e12
    assert 1e-7 < link.latency_s < 1e-4
    assert link.peers is None or link.peers == link.devices - 1


def test_networks_are_slower_than_links_inside_a_node():
    for entry in table():
        if entry.link and entry.network:
            inside, across = named_link(entry.link), named_link(entry.network)
            assert inside.latency_s <= across.latency_s
            if not entry.link.startswith("pcie"):
                assert inside.bytes_s / (inside.peers or 1) > across.bytes_s


def test_short_names_resolve_and_others_are_refused():
    expected = "a100-40 a100-80 h100 h200 b200 b300 mi250 mi300x mi355x"
    assert set(short_names()) == set(expected.split())
    for name in short_names():
        assert named_device(name).short == named_device(name.upper()).short == name
    assert named_device("NVIDIA H200").short == "h200"
    assert named_device("mi250").memory_bytes == 64e9, "a die"
    with pytest.raises(ArgumentError, match="'h300' is not listed; take a100-40, "):
        named_device("h300")
    with pytest.raises(ArgumentError, match="'token ring' is not listed"):
        named_link("token ring")


@each_with_rates
def test_float32_agrees_with_units_and_clock(entry):
    """Check 2 FLOPs per multiply-add on 128 lanes of a unit (A100: 64), or CDNA's matrix units."""
    # Relative to the threads that a unit issues for: 2 FLOPs each, on an A100 half of that.
    share = {"nvidia": 2, "amd": 4}[entry.maker]
    share = 1 if "A100" in entry.name else share
    expected = share * entry.rates().instructions_s
    assert entry.flops["float32"] == pytest.approx(expected, rel=0.03)


@each_with_rates
def test_matrix_rate_is_a_power_of_two_per_clock_and_unit(entry):
    per_clock = entry.flops["bfloat16"] / (entry.units * entry.clock_hz)
    power = min((2**n for n in range(9, 14)), key=lambda value: abs(value / per_clock - 1))
    # Boards with a power limit below the highest clock are listed with a lower rate.
    assert 0.85 < per_clock / power < 1.01


@each_entry
def test_bandwidth_and_matrix_rates_are_plausible(entry):
    assert 50 < entry.flops["bfloat16"] / entry.bytes_s < 600, "FLOPs a byte"


def test_dies_of_one_module_share_an_energy_counter():
    for entry in table():
        assert entry.dies in {1, 2}
        if entry.dies == 2:
            assert entry.energy_scope == "module"
    assert {entry.name for entry in table() if entry.dies == 2} == {
        "AMD Instinct MI250X",
        "AMD Instinct MI250",
    }


def test_names_are_unique_and_shared_aliases_need_the_units():
    assert len(ENTRIES) == len(table())
    shared = "AMD Instinct MI250X / MI250"
    assert listed(shared) is None
    assert listed(shared, 104) == ENTRIES["AMD Instinct MI250"]
    assert listed(shared, 110) == ENTRIES["AMD Instinct MI250X"]
    assert listed(shared, 13) is None
    for name in {alias for entry in table() for alias in entry.aliases} - {
        shared,
        "AMD Instinct MI250X/MI250",
    }:
        assert len(candidates(name)) == 1


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H200 MIG 1g.18gb", "NVIDIA H100", "AMD Instinct MI300", "H200", "Radeon", ""],
)
def test_similar_name_is_not_listed(name):
    assert listed(name) is None
    assert listed_peak(name, "bfloat16") is None
    assert listed_rates(name) is None


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA H100 80GB HBM3", "float16", 989.4e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2e12),  # float32 accumulation, not 330.3
        ("AMD INSTINCT MI300X", "bfloat16", 1307.4e12),
        ("AMD Instinct MI250X", "bfloat16", 191.5e12),  # one die of two
        ("NVIDIA H200", "float64", 67e12),  # on matrix units
        ("NVIDIA L40S", "float64", None),
        ("NVIDIA H200", "float8_e4m3fn", None),
    ],
)
def test_peak_equals_that_of_the_data_sheet(name, dtype, peak):
    assert listed_peak(name, dtype) == peak


def test_exponentials_of_newer_devices_are_doubled():
    per_clock = {name: entry.exponentials for name, entry in ENTRIES.items()}
    doubled = {"NVIDIA B300 SXM6 AC", "AMD Instinct MI350X", "AMD Instinct MI355X"}
    assert {name for name, count in per_clock.items() if count == 32} == doubled
    assert set(per_clock.values()) == {16, 32, None}


def test_device_without_units_has_no_rates():
    assert listed_rates("NVIDIA GB200") is None
    assert listed_peak("NVIDIA GB200", "bfloat16") == 2500e12
