"""Sharded parameters: training has the losses and weights of one rank, on any number of ranks."""

import pytest
import torch
from support.sharded_training import CASES, STEPS, Result

TOLERANCE = 1e-10
SHIFTS = ("attention_pair_bias.norm_z.bias", "pair_weighted_averaging.norm_z.bias")
SHIFT_MOMENT = 1e-15
SHARDED = [name for name, case in CASES.items() if case.ranks > 1 and case.root]
# Some of the parameters outside of blocks, from every part of the model.
OUTSIDE = {
    "initial_embedding.linear_z_i.weight",
    "recycling_embedder.norm_z.weight",
    "alignment_embedding.linear_s.weight",
    "input_embedder.atom_encoder.pair_mixer.linear_ends.weight",
    "template_embedder.linear_out.weight",
    "diffusion.pair_conditioning.transitions.0.weight_in",
    "diffusion.single_conditioning.linear_noise.weight",
    "diffusion.transformer.linear_bias.weight",
    "diffusion.norm_a.weight",
    "diffusion.atom_decoder.linear_out.weight",
    "confidence.linear_pae.weight",
    "distogram.linear.weight",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory, command_server):
    """The result of every case, on processes."""
    folder = tmp_path_factory.mktemp("cases")
    command_server.run_script("support.sharded_training", folder, folder=folder)
    loaded = {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in CASES}
    return {name: r if isinstance(r, str) else Result(*r) for name, r in loaded.items()}


@pytest.mark.parametrize("name", [*SHARDED, "one_again"])
def test_losses_and_gradient_norms_are_those_of_one_rank(results, name):
    """From the start, or from a checkpoint of other ranks."""
    found = results[name].scalars
    expected = results["one"].scalars[STEPS - len(found) :]
    torch.testing.assert_close(
        torch.tensor(found), torch.tensor(expected), rtol=TOLERANCE, atol=TOLERANCE
    )


@pytest.mark.parametrize("name", [*SHARDED, "one_again"])
def test_weights_after_the_last_step_are_those_of_one_rank(results, name):
    """Every parameter, average and moment, to a part of its largest magnitude.

    Gradients of parameters that shift all logits of a softmax alike are zero but for rounding.
    """
    found, expected = results[name].tensors, results["one"].tensors
    assert found.keys() == expected.keys()
    for parameter, tensor in expected.items():
        error, scale = (float(t.abs().max()) for t in (found[parameter] - tensor, tensor))
        is_shift = parameter.startswith("exp_avg") and parameter.endswith(SHIFTS)
        assert error <= (SHIFT_MOMENT if is_shift else TOLERANCE * scale), parameter


def test_training_moves_parameters_outside_of_blocks(results):
    """Require that training changes them; equality of unchanged weights would prove nothing."""
    for parameter in OUTSIDE:
        assert ".blocks." not in parameter
        assert results["one"].tensors[f"exp_avg {parameter}"].abs().max() > SHIFT_MOMENT, parameter


@pytest.mark.parametrize("name", ["one", "two"])
def test_resumed_run_on_the_same_ranks_has_the_same_bits(results, name):
    assert results[name].repeated


@pytest.mark.parametrize("name", SHARDED)
def test_each_rank_holds_its_part_of_weights_averages_and_moments(results, name):
    """Parts of a few rows are not equal, and the smallest tensors are on the first rank alone."""
    (whole,), held = results["one"].held, results[name].held
    assert sum(held) == whole
    assert max(held) < 1.1 * whole / len(held)


def test_parameters_outside_of_blocks_must_be_sharded_too(results):
    assert results["no_root"] == "a parameter outside of the blocks is not sharded"
