"""Calibration workload: its static costs equal the traced ones."""

import pytest
import torch

from workloads.calibration import ROUNDS
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext

CALIBRATION = catalogue()["device-rates"]
HOST = ExecutionContext(device=torch.device("cpu"), store=None)


def program(quantity, size, precision="float32"):
    config = CALIBRATION.configure({"quantity": quantity, "size": size, "precision": precision})
    return CALIBRATION.build(config, HOST), CALIBRATION.static_costs(config)


def test_copy_reads_and_writes_the_bytes_of_its_facts():
    copying, facts = program("copy", 2)
    copying.run("forward")
    source, target = copying.tensors()["inputs"]
    assert torch.equal(source, target)
    assert facts.minimum_bytes == source.nbytes + target.nbytes == 4 * 2**20
    assert copying.outcome() == {"work": facts.minimum_bytes}
    assert facts.step_flops == 0


def test_copy_in_the_cache_has_no_bytes_in_memory():
    copying, facts = program("l2_copy", 2)
    copying.run("forward")
    source, target = copying.tensors()["inputs"]
    assert torch.equal(source, target)
    assert source.nbytes + target.nbytes == 2 * 2**20, "both buffers together are of the size"
    assert facts.minimum_bytes == 0
    assert copying.outcome() == {"work": 32 * 2 * source.nbytes}


@pytest.mark.parametrize(("precision", "width"), [("float32", 4), ("bfloat16", 2)])
def test_product_has_the_flops_that_a_trace_counts(precision, width):
    multiplying, facts = program("product", 24, precision)
    multiplying.run("forward")
    left, right, out = multiplying.tensors()["inputs"]
    expected = left.double() @ right.double()
    assert (out.double() - expected).abs().max() < 16 * torch.finfo(out.dtype).eps * 5
    config = CALIBRATION.configure({"quantity": "product", "size": 24, "precision": precision})
    assert predicted_costs(CALIBRATION, config).total("flops") == facts.step_flops == 2 * 24**3
    assert facts.minimum_bytes == 3 * 24 * 24 * width
    assert multiplying.outcome() == {"work": facts.step_flops}


def test_exponentials_need_an_accelerator():
    with pytest.raises(UnsupportedError, match="accelerator"):
        program("exponentials", 1)
    config = CALIBRATION.configure({"quantity": "exponentials", "size": 1})
    assert CALIBRATION.static_costs(config).exponentials == ROUNDS * 2**20 // 4
    assert predicted_costs(CALIBRATION, config).peak.nbytes == 2 * 2**20
