"""Costs of a program from shapes alone: no tensor holds data, and no rank communicates."""

from collections.abc import Callable
from contextlib import nullcontext

from torch._subclasses.fake_tensor import FakeTensorMode

from refsys.costs.block_insertion import UnequalBlocksError
from refsys.costs.collectives import fake_process_group
from refsys.costs.program import Program
from refsys.costs.trace import Trace, trace, uncollected


def predict(
    build: Callable[[], Program], *, ranks: int = 1, rank: int = 0, shorten: bool = True
) -> Trace:
    """Return the costs of one step of a program, computing nothing.

    Equal rounds and blocks (`refsys.ops.rounds`) are traced once and multiplied. Where blocks prove
    unequal, a second program is traced in full.

    Args:
        build: Function that builds the program, with its optimizer state in place, under fake
            tensors. With several ranks the default process group exists when it is called.
        ranks: World size. With several, this process must not have a process group.
        rank: Rank whose costs are traced.
        shorten: Whether equal rounds and blocks are multiplied; the costs are the same.

    Raises:
        ArgumentError: the rank is not one of the ranks, or a process group exists.
    """
    with nullcontext() if ranks == 1 else fake_process_group(ranks, rank):
        if shorten:
            try:
                with uncollected(), FakeTensorMode():
                    return trace(build(), shorten=True)
            except UnequalBlocksError:
                pass
        with uncollected(), FakeTensorMode():
            return trace(build())
