"""Layouts of the batches of a run."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from refsys.batch import Batch
from refsys.parallel.agreement import Agreement
from refsys.parallel.channel_groups import BlockGrid
from refsys.parallel.collectives import Exchange
from refsys.parallel.layout import Layout, SingleRank
from refsys.parallel.row_slab import RowSlab
from refsys.parallel.shares import AtomShares


class Layouts(ABC):
    """Layouts of the batches of a run, one after the other."""

    @abstractmethod
    def plan(self, batch: Batch) -> None:
        """Read from the next batch, on the host, what its layout depends on."""

    @abstractmethod
    def of(self, batch: Batch) -> Layout:
        """Return the layout of the batch that was planned last, without reading it."""


class SingleRankLayouts(Layouts):
    """Layouts of a run whose examples are not divided."""

    def plan(self, batch: Batch) -> None:
        """See `Layouts`."""

    def of(self, batch: Batch) -> Layout:
        """See `Layouts`."""
        return SingleRank(batch.sizes["token"], batch.sizes.get("atom", 0))


class RowSlabLayouts(Layouts):
    """Layouts of one rank of a context group."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        chunks: int = 1,
        traced: bool = False,
        scheme: type[RowSlab] = RowSlab,
        agreement: Agreement | None = None,
        grid_of: Callable[[int], BlockGrid] | None = None,
    ) -> None:
        """Divide each batch among the ranks of a group.

        Args:
            exchange: Exchange between the ranks.
            chunks: See `RowSlab`.
            traced: Whether the batches are placeholders: their tokens are taken to have equally
                many atoms.
            scheme: Layout of the tokens: see `refsys.parallel.schemes`.
            agreement: Comparison of each batch among the ranks; None compares none.
            grid_of: See `RowSlab`.
        """
        self._exchange, self._chunks, self._traced = exchange, chunks, traced
        self._scheme, self._agreement, self._grid_of = scheme, agreement, grid_of
        self._atoms: AtomShares | None = None

    def plan(self, batch: Batch) -> None:
        """Find out which tokens the atoms of each rank belong to.

        Raises:
            ArgumentError: the batch has fewer windows of atoms than there are ranks, or ranks have
                batches of different sizes or dtypes.
            RankError: a rank is missing.
        """
        if self._agreement is not None:
            values: dict[str, object] = {f"axis {a}": size for a, size in batch.sizes.items()}
            values |= {f"dtype of {name}": tensor.dtype for name, tensor in batch.items()}
            self._agreement.check("the batch", values)
        ranks = self._exchange.ranks
        if "atom" not in batch.sizes:
            self._atoms = None
        elif self._traced:
            self._atoms = AtomShares.uniform(batch.sizes["atom"], batch.sizes["token"], ranks)
        else:
            self._atoms = AtomShares.of(batch["atom_token"].numpy(), ranks)

    def of(self, batch: Batch) -> Layout:
        """See `Layouts`.

        Raises:
            ArgumentError: there are fewer tokens than ranks.
        """
        return self._scheme(
            batch.sizes["token"],
            self._exchange,
            self._atoms,
            chunks=self._chunks,
            grid_of=self._grid_of,
        )
