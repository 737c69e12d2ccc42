"""Operators: naive formulas, FLOP counts, gradients, argument checks, choice of backend."""

import itertools
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from refsys import ops
from refsys.errors import ArgumentError
from refsys.ops import backend
from refsys.ops.adaptive_layer_norm import adaptive_layer_norm
from refsys.ops.backend import OPERATORS, Fallback, Implementation, Operator
from refsys.ops.conditioned_transition import conditioned_transition
from refsys.ops.dropout_residual import dropout_residual
from refsys.ops.gated_attention import attention_pair_bias, gated_triangle_attention
from refsys.ops.gated_linear import gated_linear
from refsys.ops.layer_norm import layer_norm
from refsys.ops.layer_norm_linear import attention_projection, layer_norm_linear, pair_bias
from refsys.ops.outer_product_mean import outer_product_mean
from refsys.ops.pair_weighted_averaging import pair_weighted_averaging
from refsys.ops.smooth_lddt import smooth_lddt
from refsys.ops.transition import TransitionWeights, transition
from refsys.ops.triangle_attention import triangle_attention
from refsys.ops.triangle_multiplication import contraction, epilogue, projection

F64 = torch.float64
G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=F64)


def mask(*shape):
    return torch.rand(shape, generator=G) > 0.3


B, R, Q, K, H, D, C, S, U = 2, 3, 4, 5, 2, 6, 8, 7, 3
ARGUMENTS = {
    "layer_norm": ((normal(B, R, C), normal(C), normal(C)), {"statistics": F64, "epsilon": 1e-5}),
    "dropout_residual": (
        (normal(B, R, Q, C), normal(B, R, Q, C), mask(B, Q, C)),
        {"rate": 0.25, "shared_axis": -3},
    ),
    "triangle_attention": (
        (
            *(normal(B, R, Q, H, D), normal(B, R, K, H, D), normal(B, R, K, H, D)),
            *(normal(B, H, Q, K), mask(B, R, K)),
        ),
        {"softmax": F64},
    ),
    "triangle_multiplication_projection": (
        (normal(B, R, Q, C), mask(B, R, Q), normal(C), normal(C), normal(5 * C, C)),
        {"statistics": F64},
    ),
    "triangle_multiplication_contraction": (
        (normal(B, Q, Q, C), normal(B, Q, Q, C)),
        {"outgoing": True},
    ),
    "triangle_multiplication_epilogue": (
        (
            *(normal(B, R, Q, C), normal(B, R, Q, C), normal(C), normal(C), normal(C, C)),
            *(normal(B, R, Q, C), mask(B, Q, C)),
        ),
        {"rate": 0.25, "statistics": F64},
    ),
    "smooth_lddt": (
        (3 * normal(B, U, K, 3), 3 * normal(B, K, 3), mask(B, K), 4 + normal(B, K)),
        {"block": 3},
    ),
    "layer_norm_linear": (
        (normal(B, R, C), normal(C), normal(C), normal(U, C), normal(U - 1)),
        {"statistics": F64},
    ),
    "pair_bias": (
        (normal(B, R, Q, C), normal(C), normal(C), normal(H, C)),
        {"statistics": F64},
    ),
    "attention_projection": (
        (normal(B, R, Q, C), normal(C), normal(C), normal(4 * C, C), normal(H, C)),
        {"statistics": F64},
    ),
    "gated_linear": (
        (
            *(normal(B, R, Q, C), normal(B, R, Q, C), normal(U, C)),
            *(normal(B, R, Q, U), mask(B, Q, U)),
        ),
        {"rate": 0.25},
    ),
    "gated_triangle_attention": (
        (
            *(normal(B, Q, Q, C), mask(B, Q, Q), normal(C), normal(C), normal(4 * C, C) / 4),
            *(normal(H, C), normal(C, C), mask(B, Q, C)),
        ),
        {"rate": 0.25, "softmax": F64, "statistics": F64},
    ),
    "attention_pair_bias": (
        (
            *(normal(B, Q, C), normal(B, Q, Q, U), mask(B, Q), normal(C), normal(C)),
            *(normal(4 * C, C) / 4, normal(C), normal(U), normal(U), normal(H, U), normal(C, C)),
        ),
        {"softmax": F64, "statistics": F64},
    ),
    "transition": (
        (normal(B, R, C), normal(C), normal(C), normal(4 * C, C), normal(C, 2 * C)),
        {"statistics": F64},
    ),
    "adaptive_layer_norm": (
        (normal(B, U, R, C), normal(B, 1, R, C), normal(B, 1, R, C)),
        {"statistics": F64},
    ),
    "conditioned_transition": (
        (
            *(normal(B, U, R, C), normal(B, 1, R, C), normal(B, 1, R, C), normal(B, 1, R, C)),
            *(normal(4 * C, C), normal(C, 2 * C)),
        ),
        {"statistics": F64},
    ),
    "outer_product_mean": (
        (
            *(normal(B, S, R, U), normal(B, S, Q, U), mask(B, S, R), mask(B, S, Q)),
            *(normal(C, U * U), normal(C)),
        ),
        {"accumulation": F64},
    ),
    "pair_weighted_averaging": (
        (normal(B, S, Q, H, D), normal(B, R, Q, H), mask(B, Q)),
        {"softmax": F64},
    ),
}
# Positions of the label, which is not differentiated.
FIXED = {"smooth_lddt": (1, 3)}
PUBLIC = {
    "layer_norm": layer_norm,
    "dropout_residual": dropout_residual,
    "triangle_attention": triangle_attention,
    "triangle_multiplication_projection": projection,
    "triangle_multiplication_contraction": contraction,
    "triangle_multiplication_epilogue": epilogue,
    "transition": transition,
    "adaptive_layer_norm": adaptive_layer_norm,
    "conditioned_transition": conditioned_transition,
    "smooth_lddt": smooth_lddt,
    "layer_norm_linear": layer_norm_linear,
    "pair_bias": pair_bias,
    "attention_projection": attention_projection,
    "gated_linear": gated_linear,
    "gated_triangle_attention": gated_triangle_attention,
    "attention_pair_bias": attention_pair_bias,
    "outer_product_mean": outer_product_mean,
    "pair_weighted_averaging": pair_weighted_averaging,
}


def flat(name, function=None):
    """An operator's public function, or another of its arguments, called with a list of tensors."""
    return OPERATORS[name].with_flat_arguments(function or PUBLIC[name])


def test_tables_of_arguments_and_functions_cover_all_operators():
    assert set(OPERATORS) == set(ARGUMENTS) == set(PUBLIC)


@pytest.mark.parametrize("name", OPERATORS)
def test_flop_formula_equals_the_counted_flops(name):
    arguments, options = ARGUMENTS[name]
    with FlopCounterMode(display=False) as counter:
        flat(name)(*arguments, **options)
    flops = flat(name, OPERATORS[name].flops)
    assert flops(*arguments, **options) == counter.get_total_flops()


@pytest.mark.parametrize("name", OPERATORS)
def test_minimum_bytes_equal_inputs_and_outputs(name):
    arguments, options = ARGUMENTS[name]
    outputs = flat(name)(*arguments, **options)
    tensors = [*arguments, *(outputs if isinstance(outputs, tuple) else (outputs,))]
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert flat(name, OPERATORS[name].minimum_bytes)(*arguments, **options) == total


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_equal_finite_differences(name):
    arguments, options = ARGUMENTS[name]
    inputs = [
        a.clone().requires_grad_() if a.dtype == F64 and n not in FIXED.get(name, ()) else a
        for n, a in enumerate(arguments)
    ]
    torch.autograd.gradcheck(lambda *a: flat(name)(*a, **options), inputs)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_has_the_input_dtype_and_is_close_to_float64(name, dtype):
    arguments, options = ARGUMENTS[name]
    exact = flat(name)(*arguments, **options)
    low = [a.to(dtype) if a.dtype == F64 else a for a in arguments]
    upper = {key: torch.float32 if value is F64 else value for key, value in options.items()}
    rounded = flat(name)(*low, **upper)
    pairs = zip(rounded, exact, strict=True) if isinstance(exact, tuple) else [(rounded, exact)]
    for output, expected in pairs:
        assert output.dtype == dtype
        scale = expected.abs().max()
        assert ((output.double() - expected).abs().max() / scale) < 30 * torch.finfo(dtype).eps


def test_triangle_attention_equals_its_formula():
    (q, k, v, bias, keep), options = ARGUMENTS["triangle_attention"]
    keep = keep.clone()
    keep[0, 1] = False
    out = triangle_attention(q, k, v, bias, keep, **options)
    for b, r, i, h in itertools.product(range(B), range(R), range(Q), range(H)):
        keys = [j for j in range(K) if keep[b, r, j]]
        logits = [float(q[b, r, i, h] @ k[b, r, j, h]) / math.sqrt(D) for j in keys]
        weights = [math.exp(x + float(bias[b, h, i, j])) for x, j in zip(logits, keys, strict=True)]
        expected = torch.zeros(D, dtype=F64)
        for weight, j in zip(weights, keys, strict=True):
            expected += weight / sum(weights) * v[b, r, j, h]
        torch.testing.assert_close(out[b, r, i, h], expected)


def test_triangle_attention_of_a_row_without_keys_is_zero_and_has_no_gradient():
    (q, k, v, bias, keep), options = ARGUMENTS["triangle_attention"]
    keep = keep.clone()
    keep[0] = False
    inputs = [t.clone().requires_grad_() for t in (q, k, v, bias)]
    out = triangle_attention(*inputs, keep, **options)
    out.sum().backward()
    assert (out[0] == 0).all()
    for tensor in inputs:
        assert (tensor.grad[0] == 0).all()
        assert tensor.grad[1].isfinite().all()


@pytest.mark.parametrize("outgoing", [True, False])
def test_contraction_equals_its_formula(outgoing):
    a, b = normal(1, 4, 4, 2), normal(1, 4, 4, 2)
    # Fewer rows of the result than columns.
    a = a[:, :3] if outgoing else a[:, :, :3]
    x = contraction(a, b, outgoing=outgoing)
    assert x.shape == (1, 3, 4, 2)
    for i, j in itertools.product(range(3), range(4)):
        pairs = [
            (a[0, i, k], b[0, j, k]) if outgoing else (a[0, k, i], b[0, k, j]) for k in range(4)
        ]
        torch.testing.assert_close(x[0, i, j], sum(u * v for u, v in pairs))


def test_outer_product_mean_divides_by_the_rows_that_cover_both_tokens():
    a, b = normal(1, 3, 2, 1), normal(1, 3, 2, 1)
    mask_a = torch.tensor([[[True, False], [True, True], [False, True]]])
    a, b = a * mask_a.unsqueeze(-1), b * mask_a.unsqueeze(-1)
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, dtype=F64)
    out = outer_product_mean(a, b, mask_a, mask_a, one, zero, accumulation=F64)
    for i, j in itertools.product(range(2), range(2)):
        covered = [s for s in range(3) if mask_a[0, s, i] and mask_a[0, s, j]]
        total = sum(float(a[0, s, i, 0] * b[0, s, j, 0]) for s in covered)
        assert float(out[0, i, j, 0]) == pytest.approx(total / (len(covered) + 1e-3))


@pytest.mark.parametrize("shared_axis", [-3, -2])
def test_dropout_mask_is_shared_and_scaled(shared_axis):
    zero, one = torch.zeros(2, 6, 5, 4, dtype=F64), torch.ones(2, 6, 5, 4, dtype=F64)
    keep = mask(2, 5 if shared_axis == -3 else 6, 4)
    out = dropout_residual(one, one, keep, rate=0.25, shared_axis=shared_axis)
    torch.testing.assert_close(
        out, (1 + keep.double().unsqueeze(shared_axis) / 0.75).expand_as(out)
    )
    assert torch.equal(dropout_residual(zero, one, None, rate=0.25, shared_axis=-3), one)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: triangle_attention(a[0][0], *a[1:], softmax=F64), "q has shape"),
        (lambda a: triangle_attention(a[0], a[1][:, :, :, :1], *a[2:], softmax=F64), "k has shape"),
        (lambda a: triangle_attention(a[0], a[1].float(), *a[2:], softmax=F64), "k is torch.float"),
        (lambda a: triangle_attention(*a[:4], a[4].double(), softmax=F64), "mask is torch.float64"),
        (lambda a: triangle_attention(*a[:3], a[3].to("meta"), a[4], softmax=F64), "bias is on"),
        (lambda a: triangle_attention(*a, softmax=F64, backend="fast"), "backend='fast'"),
        (lambda a: contraction(a[0][0], a[0][0][:, :, 1:], outgoing=True), "b has shape"),
    ],
)
def test_error_names_the_wrong_argument(call, message):
    with pytest.raises(ArgumentError, match=message):
        call(ARGUMENTS["triangle_attention"][0])


class TestBackends:
    operator = OPERATORS["transition"]
    tensor = torch.zeros(1)

    def choose(self, explicit=None):
        return self.operator.choose(explicit, self.tensor)

    def test_argument_precedes_block_and_block_precedes_environment(self, monkeypatch):
        assert self.choose() == "reference"
        monkeypatch.setenv("FOLDPERF_BACKEND", "transition=compiled,layer_norm=reference")
        assert self.choose() == "compiled"
        with ops.use_backend("reference"):
            assert self.choose() == "reference"
            with ops.use_backend(transition="compiled"):
                assert self.choose() == "compiled"
                assert self.choose("reference") == "reference"
                with ops.use_backend("reference"):
                    assert self.choose() == "reference"

    def test_fallback_is_counted_with_its_reason_when_backend_cannot_run(self):
        before = ops.fallbacks()
        assert self.operator.choose("compiled", torch.zeros(1, device="meta")) == "reference"
        (fallback,) = ops.fallbacks() - before
        assert fallback[:2] == Fallback("transition", "compiled", "")[:2]
        assert "meta" in fallback.reason

    @pytest.mark.parametrize("text", ["fast", "transition=fast", "trasition=compiled"])
    def test_environment_variable_with_unknown_name_is_an_error(self, monkeypatch, text):
        monkeypatch.setenv("FOLDPERF_BACKEND", text)
        with pytest.raises(ArgumentError, match="does not exist"):
            self.choose()

    def test_kernel_that_cannot_serve_the_arguments_falls_back(self, monkeypatch):
        monkeypatch.setattr(backend, "OPERATORS", {})
        monkeypatch.setattr(backend, "BACKENDS", ("reference", "compiled", "kernel", "other"))
        kernel = Implementation(
            lambda x, *, wide: x + wide, lambda x, *, wide: None if wide else "too narrow"
        )
        operator = Operator("sum", lambda x, *, wide: -x, None, None, kernels={"kernel": kernel})
        one = torch.ones(1)
        assert operator(one, wide=2, backend="kernel") == 3
        assert list(operator.implementations) == ["kernel", "compiled"]
        before = ops.fallbacks()
        assert operator(one, wide=0, backend="kernel") == -1
        assert operator(one, wide=2, backend="other") == -1
        assert {fallback.reason for fallback in ops.fallbacks() - before} == {
            "too narrow",
            "it has no such implementation",
        }

    def test_torch_compile_is_called_by_the_first_compiled_call_alone(self, monkeypatch):
        """Its import takes a second of a CPU, which notes of a program need not pay."""
        asked = []

        def compile_reference(function, **_options):
            asked.append(function)
            return function

        monkeypatch.setattr(backend, "OPERATORS", {})
        monkeypatch.setattr(torch, "compile", compile_reference)
        operator = Operator("negative", lambda x: -x, None, None)
        assert ops.is_deterministic("negative", "compiled")
        assert operator.choose("compiled", torch.ones(1)) == "compiled"
        assert not asked
        for _ in range(2):
            assert operator(torch.ones(1), backend="compiled") == -1
        assert asked == [operator.reference]

    def test_choice_for_an_unknown_operator_is_an_error(self):
        with pytest.raises(ArgumentError, match="'softmax' does not exist"):
            ops.use_backend(softmax="reference").__enter__()

    @pytest.mark.bits
    def test_compiled_is_bitwise_reproducible_and_close_to_the_reference(self):
        (x, *weights), _ = ARGUMENTS["transition"]
        inputs = [t.float().requires_grad_() for t in (x, *weights)]
        results = []
        for name in ("reference", "reference", "compiled", "compiled"):
            weights = TransitionWeights(*inputs[1:])
            out = transition(inputs[0], weights, statistics=torch.float32, backend=name)
            results.append((out, *torch.autograd.grad(out.sum(), inputs)))
        for reference, again, compiled, repeated in zip(*results, strict=True):
            assert torch.equal(reference, again)
            assert torch.equal(compiled, repeated)
            torch.testing.assert_close(compiled, reference, rtol=1e-4, atol=1e-4)
