"""Transformers of the diffusion module with fused operators, against plain PyTorch."""

import pytest
import torch
from support.trunks import CONFIG, context, random_batch, randomize

from refsys import ops
from refsys.batch import ATOM_KEYS, ATOM_WINDOW
from refsys.model.atom_attention import (
    AtomConditioning,
    AtomTransformer,
    key_windows,
)
from refsys.model.diffusion_transformer import DiffusionTransformer
from refsys.ops.triton_backend import COPY, watch_launches
from refsys.parallel import SingleRank
from refsys.precision import PRECISIONS

SAMPLES, TOKENS, ATOMS = 2, 9, 2 * ATOM_WINDOW
BATCH = random_batch(TOKENS, 1)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def atoms(precision):
    module = AtomTransformer(CONFIG, precision)
    randomize(module)
    mask = torch.ones(1, ATOMS, dtype=torch.bool)
    mask[:, -5:] = False

    def run(q, c, p):
        return module(q, module.condition(AtomConditioning(c, p)), mask, context(BATCH))

    c_atom, windows = CONFIG.c_atom, ATOMS // ATOM_WINDOW
    pairs = normal(1, windows, ATOM_WINDOW, ATOM_KEYS, CONFIG.c_atompair, seed=2)
    inputs = normal(1, SAMPLES, ATOMS, c_atom), normal(1, 1, ATOMS, c_atom, seed=1), pairs
    return module, run, inputs


def tokens(precision):
    module = DiffusionTransformer(CONFIG, precision)
    randomize(module)

    def run(a, condition, z):
        this = context(BATCH)
        return module(a, condition, module.biases(z, this), BATCH["token_mask"], this)

    inputs = (
        normal(1, SAMPLES, TOKENS, CONFIG.c_token),
        normal(1, SAMPLES, TOKENS, CONFIG.c_s, seed=1),
        normal(1, TOKENS, TOKENS, CONFIG.c_z, seed=2),
    )
    return module, run, inputs


def gradients(build, name):
    """Return the output, and the gradients of all inputs and parameters."""
    precision = PRECISIONS[name]
    module, run, inputs = build(precision)
    leaves = [t.to(precision.activations).requires_grad_() for t in inputs]
    out = run(*leaves)
    towards = torch.linspace(-1, 1, out.shape[-1], dtype=out.dtype).expand_as(out)
    return out.detach(), *torch.autograd.grad(out, [*leaves, *module.parameters()], towards)


@pytest.mark.parametrize("build", [atoms, tokens])
def test_output_and_gradients_are_as_exact_as_plain(build):
    exact, plain = gradients(build, "float64"), gradients(build, "float32")
    calls, fallbacks = ops.calls(), ops.fallbacks()
    with ops.use_backend("triton"):
        fused = gradients(build, "float32")
    ran = ops.calls() - calls
    assert {choice.backend for choice in ran if choice.operator != "layer_norm"} == {"triton"}
    assert {fallback.operator for fallback in ops.fallbacks() - fallbacks} <= {"layer_norm"}
    largest = max(true.abs().max().item() for true in exact)
    for true, one, other in zip(exact, plain, fused, strict=True):
        error, allowed = ((t.double() - true).abs().max().item() for t in (other, one))
        scale = true.abs().max().item()
        # A gradient that vanishes by symmetry is a sum of terms that do not, rounded as they are.
        scale = scale if scale > 1e-12 * largest else largest
        assert error <= 3 * allowed + 4 * torch.finfo(torch.float32).eps * scale


def test_overlapping_windows_of_keys_are_read_without_a_copy():
    """A window shares three quarters of its keys with the next one."""
    _, run, inputs = atoms(PRECISIONS["float32"])
    launches = []
    with ops.use_backend("triton"), watch_launches(launches.append), torch.no_grad():
        run(*(t.float() for t in inputs))
    (attention,) = (one for one in launches if one.kernel == "triangle_attention.forward")
    k = attention.arguments[2]
    windows = key_windows(normal(1, SAMPLES, ATOMS, CONFIG.c_atom), 2, SingleRank(TOKENS))
    assert k.numel() == windows.numel()
    assert k.untyped_storage().nbytes() < 4 * SAMPLES * (ATOMS + ATOM_KEYS) * CONFIG.c_atom
    copied = [launch.arguments[0] for launch in launches if launch.kernel == COPY]
    assert all(tensor.dim() == 2 for tensor in copied), "something other than weights was copied"
