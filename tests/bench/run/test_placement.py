"""Devices of ranks, and cases that cannot run on them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import bench.run.placement
from bench.devices import find_device
from bench.devices.device import Description
from bench.errors import UsageError
from bench.run.measure import Protocol
from bench.run.placement import Placement
from bench.run.sweep import Case
from workloads.catalogue import catalogue


def case(ranks=1, workload="alphafold3-trunk", device="auto", **axes):
    config = catalogue()[workload].configure({"preset": "tiny", **axes})
    return Case(
        title=workload,
        workload=workload,
        config=config,
        axes=catalogue()[workload].values(config),
        device=device,
        ranks=ranks,
        replicate=0,
        seed=0,
        protocol=Protocol(),
    )


def accelerator(index, **about):
    description = Description(vendor="amd", name="a gpu", kind="cuda", **about)
    return SimpleNamespace(torch_device=torch.device("cuda", index), describe=lambda: description)


@pytest.fixture
def machine(monkeypatch):
    """Return a function that gives the machine accelerators, each as described."""

    def set_up(*descriptions):
        def find(choice, index):
            if index < len(descriptions):
                return accelerator(index, **descriptions[index])
            raise UsageError(f"rank {index} needs a device of its own: torch sees 2")

        monkeypatch.setattr(bench.run.placement, "find_device", find)

    return set_up


def placed(cases, cores=4):
    return Placement(cases, catalogue(), cores)


@pytest.mark.parametrize(("ranks", "runs"), [(1, True), (2, True), (4, False), (8, False)])
def test_ranks_without_an_accelerator_of_their_own_are_unsupported(machine, ranks, runs):
    machine({"uuid_hash": "a"}, {"uuid_hash": "b"})
    wanted = case(ranks)
    placement = placed([wanted, case(1)])
    reason = placement.unsupported_reason(wanted)
    assert (reason is None) == runs
    assert runs or reason == f"{ranks} ranks: rank 2 needs a device of its own: torch sees 2"
    assert len(placement.descriptions(wanted)) == min(ranks, 2), "those that there are"


@pytest.mark.parametrize(("ranks", "runs"), [(1, True), (3, True), (4, False)])
def test_ranks_on_a_cpu_have_a_core_each(monkeypatch, ranks, runs):
    monkeypatch.setattr(bench.run.placement, "find_device", lambda *_: find_device("cpu"))
    reason = placed([case(ranks)], cores=3).unsupported_reason(case(ranks))
    assert (reason is None) == runs
    assert runs or reason.startswith("4 ranks need a core each, and this process can use 3")


def test_ranks_may_share_cores_where_the_sweep_says_so(monkeypatch):
    monkeypatch.setattr(bench.run.placement, "find_device", lambda *_: find_device("cpu"))
    crowded = replace(case(4), share_cores=True)
    assert placed([crowded], cores=3).unsupported_reason(crowded) is None


def test_missing_device_is_refused(machine):
    machine()
    with pytest.raises(UsageError, match="rank 0 needs a device"):
        placed([case(1, device="cuda")])


@pytest.mark.parametrize(
    ("workload", "axes"),
    [
        ("alphafold3", {}),
        ("alphafold3-trunk", {}),
        ("operators", {"operator": "transition"}),
    ],
)
def test_triton_is_unsupported_without_an_accelerator(machine, monkeypatch, workload, axes):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    reference, triton = (
        case(workload=workload, backend=backend, **axes) for backend in ("reference", "triton")
    )
    on_host = placed([case(device="cpu")])
    for wanted, reason in ((reference, None), (triton, "backend=triton needs an accelerator")):
        found = Placement([wanted], catalogue(), 4).unsupported_reason(wanted)
        assert (found or "").startswith(reason or "")
        assert (found is None) == (reason is None)
    assert on_host.unsupported_reason(case(device="cpu")) is None
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert placed([triton]).unsupported_reason(triton) is None
    monkeypatch.delenv("TRITON_INTERPRET")
    machine({"uuid_hash": "a"})
    assert placed([triton]).unsupported_reason(triton) is None
    monkeypatch.setattr("workloads.backends.find_spec", lambda name: None)
    assert placed([triton]).unsupported_reason(triton) == "backend=triton: triton is not installed"


def test_dies_of_a_module_are_one_energy_domain(machine):
    machine(
        {"uuid_hash": "a", "energy_domain": "module 0"},
        {"uuid_hash": "b", "energy_domain": "module 0"},
        {"uuid_hash": "c", "energy_domain": "module 1"},
        {"uuid_hash": "d"},
        {},
        {},
    )
    domains = placed([case(6)]).energy_domains(case(6))
    assert domains[:4] == ["module 0", "module 0", "module 1", "d"]
    assert len(set(domains)) == 5, "devices that say nothing are one each"


def test_ranks_of_a_cpu_are_one_energy_domain(monkeypatch):
    monkeypatch.setattr(bench.run.placement, "find_device", lambda *_: find_device("cpu"))
    assert len(set(placed([case(3)]).energy_domains(case(3)))) == 1
