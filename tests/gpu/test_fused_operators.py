"""Fused operators on an accelerator: accuracy in every dtype, and determinism."""

import pytest
import torch
from support.accuracy import F64, assert_exact, results

from refsys.config import preset
from refsys.ops.backend import OPERATORS
from refsys.precision import PRECISIONS
from workloads.operator_arguments import CALLS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no accelerator")

FUSED = sorted(name for name, operator in OPERATORS.items() if "triton" in operator.kernels)
DTYPES = torch.float32, torch.float16, torch.bfloat16


def draw(name, tokens, model="full"):
    """Return arguments of an operator in float64, as in a model, with some keys masked."""
    call = CALLS[name](preset(model), PRECISIONS["float64"], 1, tokens)
    generator = torch.Generator("cuda").manual_seed(0)
    tensors = []
    for argument in call.arguments:
        normal = torch.randn(argument.shape, generator=generator, device="cuda", dtype=F64)
        if argument.kind == "mask":
            tensors.append(normal > -1)
        else:
            scale = argument.shape[-1] ** 0.5 if argument.kind == "weight" else 1
            tensors.append(argument.scale * normal / scale)
    return tensors, call.options


def unsupported_reason(name):
    operator = OPERATORS[name]
    return operator.with_flat_arguments(operator.kernels["triton"].unsupported_reason)


def in_float32(options):
    return {key: torch.float32 if value is F64 else value for key, value in options.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [64, 129])
@pytest.mark.parametrize("name", FUSED)
def test_fused_operator_is_as_exact_as_plain_pytorch(name, tokens, dtype):
    tensors, options = draw(name, tokens)
    typed = [t.to(dtype) if t.is_floating_point() else t for t in tensors]
    if unsupported_reason(name)(*typed, **in_float32(options)):
        pytest.skip(f"not in {dtype}")
    assert_exact(OPERATORS[name], tensors, options, dtype)


@pytest.mark.parametrize("tokens", [384, 1024])
@pytest.mark.parametrize("name", FUSED)
def test_fused_operator_is_deterministic(name, tokens):
    tensors, options = draw(name, tokens)
    upper = in_float32(options)
    half = [t.bfloat16() if t.is_floating_point() else t for t in tensors]
    if unsupported_reason(name)(*half, **upper):
        half = [t.float() if t.is_floating_point() else t for t in tensors]

    def run(*arguments, **keywords):
        operator = OPERATORS[name]
        return operator.with_flat_arguments(operator)(*arguments, backend="triton", **keywords)

    first, second = (results(run, half, upper, half[0].dtype) for _ in range(2))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
