"""Stage ``compilation``: one run of each operator, and the number of its kernels in the cache."""

import time
from typing import Any

import torch

from bench.check_device.check import Check, OutOfTimeError
from bench.check_device.operators import BF16, SINGLE_OPERATOR, kernel_operators
from bench.compilation.cache_hits import count_compilations


def run(check: Check) -> dict[str, Any]:
    """Run each operator forward and backward, and return the kernels that were compiled.

    Raises:
        OutOfTimeError: kernels are still to be compiled; running the check again goes on.
    """
    check.need_accelerator("kernels")
    workload, operators = check.workload(SINGLE_OPERATOR), kernel_operators(check)
    start, failed = time.perf_counter(), {}
    with count_compilations() as compilations:
        for number, operator in enumerate(operators):
            if check.remaining() <= 0:
                raise OutOfTimeError(f"kernels of {number} of {len(operators)} operators are ready")
            config = workload.configure(
                {
                    "operator": operator,
                    "preset": check.sizes.preset,
                    "tokens": check.sizes.bits,
                    "precision": BF16,
                    "backend": check.sizes.backend,
                }
            )
            try:
                program = workload.build(config, check.setting())
                for phase in program.phases:
                    program.run(phase)
                check.device.synchronize()
            except (RuntimeError, torch.OutOfMemoryError) as error:
                # Later stages report more about it.
                failed[operator] = " ".join(str(error).split())[:300]
    seconds = time.perf_counter() - start
    hits, misses = len(compilations.hits), list(compilations.misses)
    check.say(f"compilation {hits} kernels from the cache, {len(misses)} compiled, {seconds:.1f} s")
    return {"hits": hits, "misses": misses, "seconds": seconds, "failed": failed}
