"""Table of peak rates: complete, sourced, and consistent."""

import re

import pytest

from bench.devices.peaks import candidates, listed, listed_peak, listed_rates, table

DTYPES = {"bfloat16", "float16", "float32"}
ENTRIES = {entry.name: entry for entry in table()}
each_entry = pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
RATED = {name: entry for name, entry in ENTRIES.items() if entry.rates()}
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
        ("NVIDIA H200", "float64", None),
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
