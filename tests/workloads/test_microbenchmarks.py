"""MegaFold's microbenchmarks: shapes and memory as in its figures."""

import pytest

from bench.run.sweep import read_sweep, shipped_sweeps
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs

WORKLOAD = catalogue()["microbenchmarks"]


@pytest.mark.parametrize(
    ("operator", "length", "flops"),
    [
        # 4 · batch · heads · length² · width
        ("triangle_attention", 384, 4 * 4 * 16 * 384**2 * 64),
        ("layer_norm_linear", 60_000, 2 * 60_000 * 128 * 16),
        ("transition", 60_000, 2 * 60_000 * 3 * 4 * 128 * 128),
    ],
)
@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_flops_are_those_of_the_shapes(operator, length, flops, backend):
    config = WORKLOAD.configure({"operator": operator, "length": length, "backend": backend})
    assert WORKLOAD.static_costs(config).forward_flops == flops
    assert predicted_costs(WORKLOAD, config).total("flops") == 3 * flops


def test_fused_operators_take_a_fraction_of_the_memory():
    """Simulated peaks have the ratios of figures 14, 16 and 18."""
    for operator, length, factor in (
        ("triangle_attention", 1024, 2.5),
        ("layer_norm_linear", 147_456, 1.2),
        ("transition", 147_456, 3),
    ):
        case = {"operator": operator, "length": length}
        plain, fused = (
            predicted_costs(WORKLOAD, WORKLOAD.configure(case | {"backend": backend})).peak.nbytes
            for backend in ("reference", "triton")
        )
        assert plain > factor * fused, operator


def test_shipped_sweep_covers_the_lengths_of_the_figures():
    sweep = read_sweep(shipped_sweeps()["kernels"], catalogue())
    lengths = {}
    for case in sweep.cases:
        if case.workload == WORKLOAD.name:
            lengths.setdefault(case.config.operator, set()).add(case.config.length)
    assert {128, 1024} <= lengths["triangle_attention"]
    assert {60_000, 147_456, 200_000} <= lengths["transition"] & lengths["layer_norm_linear"]
