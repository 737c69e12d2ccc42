"""A training step that is divided among ranks has the losses and gradients of one rank."""

import subprocess
import sys
from pathlib import Path

import torch
from support import HANG_S, free_port
from support.rank_threads import on_ranks
from support.sharded_steps import losses_and_gradients, serial, step_batch, training

from refsys.parallel import RowSlab
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.schemes import DAP

SCRIPT = str(Path(__file__).resolve().parents[2] / "support" / "gloo_steps.py")
TOLERANCE = 1e-10
# They shift all logits of a softmax alike: their gradients are zero but for rounding.
SHIFTS = ("attention_pair_bias.norm_z.bias", "pair_weighted_averaging.norm_z.bias")


def divided(ranks, scheme=RowSlab, **options):
    """Return loss, parts and the sum over ranks of each gradient; all ranks agree on the loss."""

    def program(rank):
        step = training(GroupExchange(ledger=Ledger()), scheme, **options)
        return losses_and_gradients(step, step_batch())

    results = on_ranks(ranks, program)
    loss, parts, gradients = results[0]
    assert {float(result[0]) for result in results} == {float(loss)}
    summed = {
        name: None if gradient is None else sum(result[2][name] for result in results)
        for name, gradient in gradients.items()
    }
    return loss, parts, summed


def assert_equal(found, expected):
    loss, parts, gradients = found
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


def test_divided_step_on_nine_ranks_equals_the_whole_one():
    """Dropout on, padded tokens, atoms and MSA rows, zero-initialized layers random."""
    assert_equal(divided(9), serial())


def test_divided_steps_on_real_ranks_equal_the_whole_one(tmp_path):
    """Run 2, 3, 4 and 6 processes with dropout, padding and random weights."""
    counts = (2, 3, 4, 6)
    command = [sys.executable, SCRIPT, ",".join(map(str, counts)), str(tmp_path), str(free_port())]
    subprocess.run(command, check=True, timeout=HANG_S)
    for count in counts:
        assert_equal(torch.load(tmp_path / f"{count}.pt", weights_only=False), serial())


def test_divided_step_equals_the_whole_one_with_recomputed_blocks():
    assert_equal(divided(3, checkpointing=True), serial(checkpointing=True))


def test_step_divided_by_dap_equals_the_whole_one():
    assert_equal(divided(3, DAP), serial())
