"""Triangle attention with the kernels of other libraries (baselines): adapters and reasons."""

from types import SimpleNamespace

import pytest
import torch
from support.accuracy import F64, assert_exact

from refsys import ops
from refsys.ops.backend import (
    BASELINES,
    OPERATORS,
    Choice,
    Fallback,
    Implementation,
    Operator,
)
from refsys.ops.triangle_attention import baselines, triangle_attention
from workloads.backends import Backends

OPERATOR = OPERATORS["triangle_attention"]
B, R, N, H, D = 2, 3, 5, 2, 8


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=F64)

    mask = torch.rand(B, R, N, generator=generator) > 0.3
    mask[..., 0] = True
    mask[1, 2] = False
    return (*(normal(B, R, N, H, D) for _ in range(3)), normal(B, H, N, N), mask)


def softmax_of(logits, values):
    return logits.softmax(-1) @ values


class TestAdapters:
    """Adapters against fakes that follow the documentation of each library."""

    def cuequivariance(self, q, k, v, bias, mask):
        assert bias.shape == (B, 1, H, N, N)
        assert mask.shape == (B, R, 1, 1, N)
        logits = q @ k.transpose(-1, -2) * D**-0.5 + bias
        return softmax_of(logits.masked_fill(~mask, -1e9), v)

    def deepspeed(self, q, k, v, biases):
        mask_bias, bias = biases
        assert mask_bias.shape == (B, R, 1, 1, N)
        assert bias.shape == (B, 1, H, N, N)
        q, k, v = (t.transpose(2, 3) for t in (q, k, v))
        return softmax_of(q @ k.transpose(-1, -2) * D**-0.5 + mask_bias + bias, v).transpose(2, 3)

    def trifast(self, q, k, v, bias, mask):
        assert q.shape == (B, H, R, N, D)
        assert bias.shape == (B, H, N, N)
        logits = q @ k.transpose(-1, -2) * D**-0.5 + bias.unsqueeze(2)
        return softmax_of(logits.masked_fill(mask[:, None, :, None, :], -1e9), v)

    def turbopairformer(self, q, k, v, res_mask, pair_bias):
        assert q.shape == (B, R, H, N, D)
        assert pair_bias.shape == (B, 1, H, N, N)
        assert res_mask.shape == (B, R, 1, 1, N)
        logits = q @ k.transpose(-1, -2) * D**-0.5 + pair_bias + res_mask
        return softmax_of(logits, v).transpose(2, 3)

    @pytest.mark.parametrize("name", ["cuequivariance", "deepspeed", "trifast", "turbopairformer"])
    def test_adapters_match_the_documented_interface(self, tensors, name, monkeypatch):
        module = SimpleNamespace(
            triangle_attention=self.trifast if name == "trifast" else self.cuequivariance,
            DS4Sci_EvoformerAttention=self.deepspeed,
            turbo_attention=self.turbopairformer,
        )
        monkeypatch.setattr(baselines, "import_module", lambda _name: module)
        expected = OPERATOR.reference(*tensors, softmax=F64)
        torch.testing.assert_close(getattr(baselines, name)(*tensors, softmax=F64), expected)


def test_flex_attention_receives_bias_and_mask_of_each_row(tensors, monkeypatch):
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(baselines, "_flex", lambda: flex_attention)
    single = [t.float() if t.dtype == F64 else t for t in tensors]
    found = baselines.flex(*single, softmax=torch.float32)
    torch.testing.assert_close(found, OPERATOR.reference(*single, softmax=torch.float32))


def test_sdpa_is_as_accurate_as_plain_pytorch(tensors):
    assert_exact(OPERATOR, tensors, {"softmax": F64}, torch.float32, backend="sdpa")


@pytest.mark.bits
def test_missing_baselines_fall_back_with_a_reason(tensors):
    before = ops.fallbacks()
    expected = OPERATOR.reference(*tensors, softmax=F64)
    for baseline in ("cuequivariance", "trifast", "deepspeed"):
        assert torch.equal(triangle_attention(*tensors, softmax=F64, backend=baseline), expected)
    reasons = {f.backend: f.reason for f in ops.fallbacks() - before}
    assert reasons == {
        "cuequivariance": "cuequivariance_torch is not installed",
        "trifast": "trifast is not installed",
        "deepspeed": "deepspeed is not installed",
    }
    with ops.use_backend("flex"):
        triangle_attention(*tensors, softmax=F64)
    assert Fallback("triangle_attention", "flex", "it does not run on a cpu") in ops.fallbacks()


def test_shapes_that_a_baseline_does_not_take_are_named(monkeypatch):
    monkeypatch.setattr(baselines, "find_spec", lambda _name: True)

    def unsupported_reason(name, rows, queries, keys, width):
        q, k = (
            SimpleNamespace(shape=(1, rows, tokens, 4, width), is_cuda=True, dtype=torch.bfloat16)
            for tokens in (queries, keys)
        )
        return getattr(baselines, f"unsupported_by_{name}")(q, k, softmax=torch.float32)

    assert unsupported_reason("trifast", 64, 64, 64, 32) is None
    assert unsupported_reason("trifast", 16, 64, 64, 32) == "there are not as many rows as tokens"
    assert "power of two" in unsupported_reason("trifast", 64, 64, 64, 24)
    assert "power of two" in unsupported_reason("trifast", 64, 64, 64, 8)
    for name in ("trifast", "cuequivariance", "deepspeed"):
        assert unsupported_reason(name, 64, 32, 64, 32) == "there are not as many queries as keys"


def test_baselines_are_never_selected_by_default():
    """On an accelerator that only the baselines support."""

    def attend(*_arguments, **_options):
        raise AssertionError

    able = Implementation(attend, lambda *_arguments, **_options: None)
    unable = Implementation(attend, lambda *_arguments, **_options: "no")
    one = Operator(
        "one", attend, int, int, {"triton": unable}, baselines=dict.fromkeys(BASELINES, able)
    )
    try:
        one.__dict__["implementations"] = {"triton": unable, "compiled": unable, **one.baselines}
        assert one.choose(None, SimpleNamespace(is_cuda=True)) == "reference"
        assert one.choose("sdpa", SimpleNamespace(is_cuda=True)) == "sdpa"
    finally:
        del OPERATORS["one"]


def test_notes_report_nondeterministic_backends(monkeypatch):
    assert ops.is_deterministic("triangle_attention", "sdpa")
    assert ops.is_deterministic("triangle_attention", "reference")
    backends = Backends("flex")
    assert "not_deterministic" not in backends.notes()
    monkeypatch.setitem(ops.backend._calls, Choice("triangle_attention", "flex"), 10**6)
    assert backends.notes()["not_deterministic"] == ["triangle_attention on flex"]
