"""Accuracy law: results that it accepts and rejects, for few elements and many."""

import pytest
import torch
from support.accuracy import F64, assert_exact

from refsys.ops import backend
from refsys.ops.backend import Implementation, Operator


def product(x, weight, *, statistics):
    return (x.to(statistics) @ weight.to(statistics)).to(x.dtype)


def operator(monkeypatch, kernel):
    monkeypatch.setattr(backend, "OPERATORS", {})
    monkeypatch.setattr(backend, "BACKENDS", ("reference", "compiled", "kernel"))
    kernels = {"kernel": Implementation(kernel, lambda x, weight, *, statistics: None)}
    return Operator("product", product, None, None, kernels=kernels)


def check_exact(operator, rows):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(n, 64, generator=generator, dtype=F64) for n in (rows, 64)]
    assert_exact(operator, tensors, {"statistics": F64}, torch.float32, backend="kernel")


@pytest.mark.parametrize("rows", [1, 400])
def test_accuracy_law_accepts_another_order_of_the_same_sum(monkeypatch, rows):
    def backwards(x, weight, *, statistics):
        return product(x.flip(-1), weight.flip(0), statistics=statistics)

    check_exact(operator(monkeypatch, backwards), rows)


@pytest.mark.parametrize("rows", [1, 400])
def test_accuracy_law_rejects_operands_that_lack_eight_bits(monkeypatch, rows):
    def short(x, weight, *, statistics):
        exponent = torch.frexp(x.detach()).exponent
        step = torch.ldexp(torch.ones_like(x), exponent - 16)
        return product(x + ((x / step).round() * step - x).detach(), weight, statistics=statistics)

    with pytest.raises(AssertionError, match="output 0"):
        check_exact(operator(monkeypatch, short), rows)
