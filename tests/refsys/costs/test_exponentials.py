"""Exponentials of operators, by their formulas."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import refsys.ops.gated_attention.triton  # noqa: F401 (registers its operators)
import workloads.language_model.alibi_flash  # noqa: F401 (registers its operators)
from refsys.costs import exponentials
from refsys.costs.exponentials import operator_exponentials
from workloads.catalogue import catalogue

# Operators of the project without a softmax, a sigmoid or the like.
WITHOUT = {
    "layer_norm_linear",
    "layer_norm_linear_backward",
    "outer_product_mean",
    "outer_product_mean_backward",
    "to_device",
    "to_host",
}


class Counting(TorchDispatchMode):
    """Sum of the exponentials of all operators."""

    def __init__(self):
        super().__init__()
        self.total, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = operator_exponentials(func, args, out)
        self.total += count
        if count:
            self.names.add(func.overloadpacket.__name__)
        return out


def test_every_operator_of_the_project_has_a_formula_or_no_exponentials():
    names = torch._C._dispatch_get_all_op_names()
    registered = {name.split("::")[1] for name in names if name.startswith("foldperf::")}
    assert registered - WITHOUT == set(exponentials._FORMULAS)


@pytest.mark.parametrize(
    "operator", ["triangle_attention", "attention_pair_bias", "transition", "adaptive_layer_norm"]
)
def test_fused_operator_has_the_exponentials_of_the_reference(operator):
    """Backward passes recompute them, which the reference of softmax does not."""
    counts = {}
    for backend in ("reference", "triton"):
        workload = catalogue()["operators"]
        axes = {"operator": operator, "preset": "tiny", "tokens": 16, "backend": backend}
        with FakeTensorMode():
            program = workload.build_abstract(workload.configure(axes))
            with Counting() as counting:
                program.run("forward")
        counts[backend] = counting.total
    assert counts["triton"] == counts["reference"] > 0


def test_fused_attention_of_torch_has_an_exponential_for_each_logit():
    with FakeTensorMode(), Counting() as counting:
        query, key = torch.empty(2, 3, 8, 4), torch.empty(2, 3, 16, 4)
        torch.nn.functional.scaled_dot_product_attention(query, key, key)
    assert counting.total == 2 * 3 * 8 * 16
