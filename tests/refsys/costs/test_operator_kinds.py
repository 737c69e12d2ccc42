"""Kinds of operators."""

from collections import Counter

from refsys.costs.operator_kinds import by_operator_kind, operator_kind

KINDS = {
    "aten.mm.default": "linear",
    "aten.add_.Tensor": "elementwise",
    "aten.mul.Tensor": "elementwise",
    "aten.relu_.default": "activation",
    "aten._fused_adamw_.default": "optimizer",
    "c10d.allreduce_.default": "communication",
    "somebody.operator.default": "other",
    "somebody.fast_attention_backward.default": "attention",
}


def test_operators_have_a_kind():
    assert {name: operator_kind(name) for name in KINDS} == KINDS


def test_kind_does_not_depend_on_the_overload():
    assert {name: operator_kind(name.rpartition(".")[0]) for name in KINDS} == KINDS


def test_calls_by_kind_add_up():
    calls = {"aten.mm.default": 2, "aten.addmm.default": 3, "aten.mul.Tensor": 5}
    assert by_operator_kind(calls) == Counter(linear=5, elementwise=5)
