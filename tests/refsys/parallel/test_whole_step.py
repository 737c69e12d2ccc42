"""A training step that is divided among ranks has the losses and gradients of one rank."""

import pytest
import torch
from support import free_port
from support.rank_threads import on_ranks
from support.sharded_steps import (
    CYCLES,
    MODEL,
    ROLLOUT_STEPS,
    SAMPLES,
    losses_and_gradients,
    serial,
    step_batch,
    training,
)
from support.trunks import FLOAT64
from support.volumes import Moves, Operators, step_volumes, volumes_of

from refsys.parallel import RowSlab
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.schemes import DAP
from refsys.parallel.shares import AtomShares

TOLERANCE = 1e-10
# They shift all logits of a softmax alike: their gradients are zero but for rounding.
SHIFTS = ("attention_pair_bias.norm_z.bias", "pair_weighted_averaging.norm_z.bias")


def divided(ranks, scheme=RowSlab, **options):
    """Return loss, parts, the sum over ranks of each gradient, and the traffic of each rank.

    All ranks agree on the loss.
    """

    def program(rank):
        ledger = Ledger()
        step = training(GroupExchange(ledger=ledger), scheme, **options)
        return *losses_and_gradients(step, step_batch(), ledger), volumes_of(ledger)

    results = on_ranks(ranks, program)
    loss, parts, gradients, _traffic = results[0]
    assert {float(result[0]) for result in results} == {float(loss)}
    summed = {
        name: None if gradient is None else sum(result[2][name] for result in results)
        for name, gradient in gradients.items()
    }
    return loss, parts, summed, [traffic for *_, traffic in results]


def assert_equal(found, expected):
    loss, parts, gradients, *_ = found
    torch.testing.assert_close(loss, expected[0], rtol=TOLERANCE, atol=0)
    for name, part in expected[1].items():
        torch.testing.assert_close(parts[name], part, rtol=TOLERANCE, atol=TOLERANCE, msg=name)
    largest = max(float(g.abs().max()) for g in expected[2].values() if g is not None)
    for name, gradient in expected[2].items():
        if gradient is None:
            assert gradients[name] is None, name
            continue
        error, scale = (float(t.abs().max()) for t in (gradients[name] - gradient, gradient))
        if name.endswith(SHIFTS):
            assert max(error, scale) < 1e-15 * largest, name
        else:
            assert error <= TOLERANCE * scale, name


@pytest.fixture(scope="module")
def nine():
    return divided(9)


@pytest.fixture(scope="module")
def three_recomputing():
    return divided(3, checkpointing=True)


@pytest.fixture(scope="module")
def processes(tmp_path_factory, command_server):
    """Results on 2 and 6 processes, and on 6 as nodes of two, by name."""
    folder, names = tmp_path_factory.mktemp("gloo"), ("2", "6", "6x2")
    arguments = (",".join(names), folder, free_port())
    command_server.run_script("support.gloo_steps", *arguments, folder=folder)
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in names}


def test_divided_step_on_nine_ranks_equals_the_whole_one(nine):
    """Dropout on, padded tokens, atoms and MSA rows, zero-initialized layers random."""
    assert_equal(nine, serial())


def test_divided_steps_on_real_ranks_equal_the_whole_one(processes):
    """Run 2 and 6 processes with dropout, padding and random weights."""
    for result in processes.values():
        assert_equal(result, serial())


def test_hierarchical_exchanges_on_real_ranks_give_the_bits_of_plain_ones(processes):
    (loss, parts, gradients, _), (*found, _traffic) = processes["6"], processes["6x2"]
    assert torch.equal(loss, found[0])
    assert all(torch.equal(part, found[1][name]) for name, part in parts.items())
    for name, gradient in gradients.items():
        assert gradient is None or torch.equal(gradient, found[2][name]), name


def test_each_rank_sends_what_the_closed_forms_give(nine, processes, three_recomputing):
    """Bytes per operator, forward, backward and recomputed, on slabs of different sizes."""
    batch = step_batch()
    results = [(9, nine, False), (3, three_recomputing, True)]
    results += [(int(name), processes[name], False) for name in ("2", "6")]
    for ranks, (*_, by_rank), checkpointing in results:
        atoms = AtomShares.of(batch["atom_token"].numpy(), ranks)
        for rank, traffic in enumerate(by_rank):
            moves = Moves(batch.sizes["token"], rank, ranks, atoms)
            expected = step_volumes(
                Operators(moves, MODEL, FLOAT64),
                alignment_rows=batch.sizes["alignment_row"],
                templates=batch.sizes["template"],
                cycles=CYCLES,
                samples=SAMPLES,
                rollout_steps=ROLLOUT_STEPS,
                checkpointing=checkpointing,
            )
            assert traffic == expected, (rank, ranks, checkpointing)


def test_divided_step_equals_the_whole_one_with_recomputed_blocks(three_recomputing):
    assert_equal(three_recomputing, serial(checkpointing=True))


def test_step_divided_by_dap_equals_the_whole_one():
    assert_equal(divided(3, DAP), serial())
