"""Layouts of several ranks within one process.

`in_lockstep` runs ranks in threads with real exchanges; a `PoisonLayout` is a single rank whose
exchanges return garbage in place of other ranks' data.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from refsys.parallel import Layout, RowSlab
from refsys.parallel.collectives import Arrived, Exchange, GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.shares import AtomShares
from refsys.parallel.shares import shares as slabs
from support.rank_threads import on_ranks

__all__ = ["PoisonLayout", "in_lockstep", "slabs"]


class PoisonExchange(Exchange):
    """Exchange of a single rank that receives garbage from the others, with correct shapes."""

    def __init__(self, rank: int, ranks: int) -> None:
        self.rank, self.ranks = rank, ranks

    def begin(self, parts, shapes, operator, *, direction="forward", together=1, sizes=None):
        generator = torch.Generator().manual_seed(13)
        return Arrived(
            tuple(
                part
                if index // together == self.rank
                else torch.randn(tuple(shape), generator=generator, dtype=part.dtype)
                for index, (part, shape) in enumerate(zip(parts, shapes, strict=True))
            )
        )


class PoisonLayout(RowSlab):
    """Slab whose exchanges return garbage for other ranks."""

    def __init__(self, tokens: int, rank: int, ranks: int, atoms: AtomShares | None = None) -> None:
        super().__init__(tokens, PoisonExchange(rank, ranks), atoms)


def in_lockstep(
    tokens: int, ranks: int, program: Callable[[Layout], tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """Run `program` without gradients on `ranks` ranks in threads; return the results by rank."""

    def run(rank: int) -> tuple[Tensor, ...]:
        del rank
        with torch.no_grad():
            return program(RowSlab(tokens, GroupExchange(ledger=Ledger())))

    return on_ranks(ranks, run)
