"""Every workload's timing cases, every single operator among them, under pytest-benchmark.

Not a part of the suite::

    pytest tests/benchmark --benchmark-json steps.json
    pytest tests/benchmark -k operators --benchmark-json operators.json
    foldperf import pytest-benchmark operators.json
"""

import gc

import pytest

from bench.devices import find_device
from bench.gate.timing.gate import CASES
from bench.probes.steps import run_step
from bench.records.pytest_benchmark import NAME, describe_case, synchronized_time
from bench.run.sweep import read_sweep
from refsys.home import default_store
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError
from workloads.workload import ExecutionContext

WARMUP_STEPS = 2
# All rounds go to the JSON: a fixed number keeps it small, whatever a step takes.
ROUNDS = 20

FOUND = catalogue()
STEPS = read_sweep(CASES, FOUND).cases


@pytest.mark.benchmark(timer=synchronized_time, disable_gc=True)
@pytest.mark.parametrize("case", STEPS, ids=[case.title for case in STEPS])
def test_step(case, benchmark):
    device, store = find_device(case.device), default_store()
    benchmark.group = case.workload
    try:
        described = describe_case(case, FOUND, store)
        setting = ExecutionContext(device=device.torch_device, store=store, seed=case.seed)
        program = FOUND[case.workload].build(case.config, setting)
    except UnsupportedError as error:
        pytest.skip(str(error))
    gc.collect()
    benchmark.extra_info[NAME] = described | {"warmup_steps": WARMUP_STEPS}
    benchmark.pedantic(
        run_step, args=(program,), rounds=ROUNDS, iterations=1, warmup_rounds=WARMUP_STEPS
    )
