"""Bytes of each operator of a whole training step, traced on one of many ranks.

As a script, compare them with the closed forms on 64 and 128 ranks, which divide neither tokens
nor windows of atoms, and fail if one differs:
``PYTHONPATH=.:tests python tests/support/traced_volumes.py``.
"""

import sys

from torch._subclasses.fake_tensor import FakeTensorMode

from refsys.costs.collectives import fake_process_group
from refsys.parallel.batch_layouts import RowSlabLayouts
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.shares import AtomShares
from refsys.precision import PRECISIONS
from refsys.run_config import run_config
from refsys.training.build import build_training, placeholder_batch
from support.traced_steps import MODEL
from support.volumes import Moves, Operators, Volumes, step_volumes, volumes_of

PRECISION, SAMPLES, ROLLOUT_STEPS = "bfloat16", 2, 20
# (ranks, rank, tokens)
CASES = ((64, 37, 131), (128, 2, 261))


def traced_volumes(ranks: int, rank: int, tokens: int) -> tuple[Volumes, Volumes]:
    """Return the traced bytes of each operator on a rank, and those of the closed forms."""
    config = run_config(
        model="alphafold3",
        preset="full",
        tokens=tokens,
        alignment_rows=8,
        atoms=32 * (ranks + 3),
        samples=SAMPLES,
        cycles=1,
        sample_cycles=False,
        entries=("synthetic",),
        precision=PRECISION,
        backend="reference",
        context_ranks=ranks,
        chunk_rows=tokens,
    ).resolved()
    ledger = Ledger()
    with fake_process_group(ranks, rank), FakeTensorMode():
        training = build_training(config, model=MODEL)
        training.layouts = RowSlabLayouts(GroupExchange(ledger=ledger), traced=True)
        batch = placeholder_batch(config)
        training.layouts.plan(batch)
        with ledger.during("forward"):
            loss = training.forward(batch, 0)
        with ledger.during("backward"):
            training.backward(loss)
    atoms = AtomShares.uniform(batch.sizes["atom"], tokens, ranks)
    expected = step_volumes(
        Operators(Moves(tokens, rank, ranks, atoms), MODEL, PRECISIONS[PRECISION]),
        alignment_rows=batch.sizes["alignment_row"],
        templates=batch.sizes["template"],
        cycles=1,
        samples=SAMPLES,
        rollout_steps=ROLLOUT_STEPS,
        checkpointing=True,
    )
    return volumes_of(ledger), expected


def main() -> int:
    """Print the bytes of each operator; return 1 if some differ from the closed forms."""
    differing = 0
    for ranks, rank, tokens in CASES:
        traced, expected = traced_volumes(ranks, rank, tokens)
        for operator in sorted(traced.keys() | expected.keys()):
            same = traced.get(operator) == expected.get(operator)
            differing += not same
            verdict = "equal" if same else f"differs from {expected.get(operator)}"
            print(f"{ranks} ranks, {operator}: {traced.get(operator)}, {verdict}")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
