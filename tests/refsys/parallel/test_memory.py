"""No rank of a divided step holds a large part of a pair tensor."""

import torch
from support.pair_guard import PairGuard
from support.rank_threads import on_ranks
from support.sharded_steps import MODEL, PADDED, losses_and_gradients, step_batch, training

from refsys.model.chunks import Chunks
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.shares import shares, sizes

RANKS = 4


def test_no_tensor_of_pairs_exceeds_four_shards():
    batch = step_batch()
    slabs = set(sizes(shares(PADDED, RANKS)))
    most = 4 * PADDED**2 * MODEL.c_z // RANKS * batch.sizes["batch"]

    def program(rank):
        # A quarter of the rows at once, as a run without fused kernels has it.
        step = training(
            GroupExchange(ledger=Ledger()), chunks=Chunks(rows=-(-PADDED // 16)), checkpointing=True
        )
        with PairGuard({PADDED, *slabs}, most) as guard:
            losses_and_gradients(step, batch)
        return guard.found

    assert on_ranks(RANKS, program) == [set()] * RANKS


def test_guard_finds_a_gathered_pair_tensor():
    guard = PairGuard({PADDED, PADDED // RANKS}, 4 * PADDED**2 // RANKS)
    with guard:
        torch.zeros(PADDED, PADDED).clone()
    assert not guard.found
    with guard:
        torch.zeros(PADDED, PADDED, 2).clone()
    assert guard.found
