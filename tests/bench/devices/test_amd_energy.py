"""Energy of modules of two dies, with a scripted AMD SMI."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_amdsmi import ENERGY, FakeAmdSmi, mi250x, modules

from bench.devices.accelerator import TorchProperties
from bench.devices.amd import AmdDevice
from bench.devices.amd_energy import Die, addresses_like, module_of
from bench.devices.device import Description, NotSupported
from bench.records.metrics import Value, as_json
from bench.records.record import CaseResult
from bench.run.ranks import energy_domains, merged

DIES = list(modules(2))
FIRST, SECOND, THIRD, FOURTH = DIES


def device(bdf, smi=None, case=()):
    return AmdDevice(0, bdf, smi or FakeAmdSmi(modules(2)), None, case)


@pytest.mark.parametrize("serials", [False, True])
def test_dies_of_a_module_share_an_energy_domain(serials):
    smi = FakeAmdSmi(modules(2, serials=serials))
    about = [device(bdf, smi).describe() for bdf in DIES]
    domains = [description.energy_domain for description in about]
    assert domains[0] == domains[1] != domains[2] == domains[3]
    assert len({description.uuid_hash for description in about}) == 4
    assert {description.energy_scope for description in about} == {"module"}
    assert [description.power_cap_w for description in about] == [560.0, None] * 2


def test_silent_die_is_refused_with_the_reporting_die_named():
    with pytest.raises(NotSupported, match=f"die {SECOND} has no energy counter") as caught:
        device(SECOND, case=[SECOND]).energy_j()
    assert f"die {FIRST} reports that of the module" in str(caught.value)
    assert f"on die {FIRST}, or on both" in caught.value.unlock


def test_reporting_die_has_energy_while_the_other_is_idle():
    assert device(FIRST, case=[FIRST]).energy_j() == pytest.approx(30.6)


@pytest.mark.parametrize("busy", [6, 100, "N/A"])
def test_reporting_die_is_refused_when_the_other_may_be_busy(busy):
    dies = modules(1)
    dies[SECOND] = mi250x(SECOND, False, amdsmi_get_gpu_activity={"gfx_activity": busy})
    amd = device(FIRST, FakeAmdSmi(dies), [FIRST])
    with pytest.raises(NotSupported, match=f"die {SECOND}, outside the case") as caught:
        amd.energy_j()
    assert "idle" in caught.value.unlock


def test_later_work_of_the_other_die_is_detected(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("bench.devices.amd_energy.perf_counter", lambda: clock[0])
    smi = FakeAmdSmi(modules(1))
    amd = device(FIRST, smi, [FIRST])
    amd.energy_j()
    smi.devices[SECOND] = mi250x(SECOND, False, busy=50)
    polls = len(smi.calls)
    amd.energy_j()
    assert not any("activity" in name for name, *_ in smi.calls[polls:]), "polled more often"
    clock[0] += 1.0
    with pytest.raises(NotSupported, match="50 % busy"):
        amd.energy_j()


def test_dies_of_one_case_read_the_same_counter():
    smi = FakeAmdSmi(modules(1, busy=90))
    readings = [device(bdf, smi, [FIRST, SECOND]).energy_reading() for bdf in (FIRST, SECOND)]
    assert readings[0] == readings[1]
    assert readings[0].joules == pytest.approx(30.6)


def test_energy_of_two_ranks_on_a_module_is_counted_once():
    smi = FakeAmdSmi(modules(2, busy=90))
    case = [FIRST, SECOND, THIRD]
    devices = [device(bdf, smi, case) for bdf in (FIRST, SECOND)]
    per_step = [own.energy_j() for own in devices]
    domains = energy_domains([own.describe() for own in devices])
    assert total(per_step, domains) == pytest.approx(30.6)
    # A third rank on another module adds the energy of that module.
    other = device(THIRD, smi, [*case, FOURTH])
    domains = energy_domains([own.describe() for own in [*devices, other]])
    assert total([*per_step, other.energy_j()], domains) == pytest.approx(2 * 30.6)
    # By identity alone the module would count twice.
    wrong = [rank_device.describe().uuid_hash for rank_device in devices]
    assert total(per_step, wrong) == pytest.approx(2 * 30.6)


def test_energy_domains_are_counters_or_else_devices_or_ranks():
    identities = [("module", "a"), ("module", "b"), (None, "c"), (None, None), (None, None)]
    devices = [
        Description(vendor="amd", name="MI250", kind="cuda", energy_domain=domain, uuid_hash=uuid)
        for domain, uuid in identities
    ]
    domains = energy_domains(devices)
    assert domains[0] == domains[1]
    assert len(set(domains)) == 4


def total(per_step, domains):
    metrics = [as_json({"energy_per_step_j": Value(joules, "counter")}) for joules in per_step]
    results = [CaseResult.from_dict({"status": "ok", "metrics": each}) for each in metrics]
    return merged(results, domains).metrics["energy_per_step_j"].value


def test_die_is_refused_when_its_sibling_is_hidden():
    smi = FakeAmdSmi({FIRST: modules(1)[FIRST]})
    amd = device(FIRST, smi, [FIRST])
    with pytest.raises(NotSupported, match="not visible to the process") as caught:
        amd.energy_j()
    assert "both dies" in caught.value.unlock
    assert amd.describe().energy_scope == "module"


def test_shared_device_name_is_resolved_by_compute_units():
    name = {"market_name": "AMD Instinct MI250X / MI250", "device_id": "0x740c"}
    smi = FakeAmdSmi({FIRST: mi250x(FIRST, True, amdsmi_get_gpu_asic_info=name)})
    peaks = {}
    for units in (104, 110, 52):
        amd = AmdDevice(0, FIRST, smi, TorchProperties("", 2**36, units))
        assert amd.describe().energy_scope == "module"
        try:
            peaks[units] = amd.peak_flops("bfloat16")
        except NotSupported:
            peaks[units] = None
    assert peaks == {104: 181.0e12, 110: 191.5e12, 52: None}


def die(bdf, reports, serial=None):
    return Die(f"handle of {bdf}", bdf, None, serial, reports)


@given(st.sets(st.integers(0, 7)), st.randoms(), st.booleans())
def test_module_pairs_sibling_dies_only(hidden, random, serials):
    everything = [
        die(f"{number:02x}", number % 2 == 0, f"board {number // 2}" if serials else None)
        for number in range(8)
    ]
    visible = [one for number, one in enumerate(everything) if number not in hidden]
    random.shuffle(visible)
    for one in visible:
        number = int(one.bdf, 16)
        module = module_of(one.bdf, visible, [other.bdf for other in everything])
        if everything[number ^ 1] in visible:
            assert module == (everything[number & ~1], everything[number | 1])
            assert module.other(one.bdf) == everything[number ^ 1]
        else:
            assert module is None


def test_dies_with_separate_serial_numbers_are_paired_by_address():
    dies = [die(f"{number:02x}", number % 2 == 0, f"die {number}") for number in range(4)]
    assert module_of("02", dies, [one.bdf for one in dies]) == (dies[2], dies[3])


def test_hidden_dies_are_in_the_list_of_addresses(monkeypatch, tmp_path):
    monkeypatch.setattr("bench.devices.amd_energy.PCI_DEVICES", tmp_path)
    for bdf, kind in (*((bdf, "0x7408") for bdf in DIES), ("0000:00:01.0", "0x1234")):
        (tmp_path / bdf).mkdir()
        (tmp_path / bdf / "vendor").write_text("0x1002\n", encoding="utf-8")
        (tmp_path / bdf / "device").write_text(f"{kind}\n", encoding="utf-8")
    assert sorted(addresses_like(FIRST)) == sorted(DIES)
    assert addresses_like("0000:ff:00.0") == ["0000:ff:00.0"]
    # The process sees one die of each of two modules: they must not be paired.
    smi = FakeAmdSmi({bdf: modules(2)[bdf] for bdf in (FIRST, FOURTH)})
    with pytest.raises(NotSupported, match="not visible"):
        device(FIRST, smi, [FIRST, FOURTH]).energy_j()


def test_reporting_dies_are_not_paired():
    dies = [die("00", True), die("01", True)]
    assert module_of("00", dies, ["00", "01"]) is None
    boarded = [die("00", True, "board"), die("01", True, "board")]
    assert module_of("00", boarded, ["00", "01"]) is None


def test_reporting_die_may_be_the_second_of_its_board():
    first, second = die("00", False, "b"), die("01", True, "b")
    assert module_of("00", [first, second], ["00", "01"]) == (second, first)


def test_device_of_one_die_reads_its_own_counter():
    smi = FakeAmdSmi(amdsmi_get_energy_count=ENERGY)
    AmdDevice(0, None, smi).energy_j()
    assert not any(name == "amdsmi_get_gpu_board_info" for name, *_ in smi.calls)
