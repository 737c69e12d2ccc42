"""Layout interface: the tokens that a rank owns, and the moves between shardings.

A rank owns a slab: the contiguous tokens [start, stop) of N, and with them rows [start, stop) of
every pair tensor, all N columns and all channels. R = stop − start may differ between ranks. A
move and its inverse are exact duals under differentiation.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, c this rank's share of channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor


class Layout(ABC):
    """Slab of this rank, and the exchanges with other ranks.

    Attributes:
        tokens: N, the number of tokens on all ranks.
        start: First owned token.
        stop: One past the last owned token.
    """

    tokens: int
    start: int
    stop: int

    @property
    def is_unsharded(self) -> bool:
        """Return True if this rank owns all tokens."""
        return self.stop - self.start == self.tokens

    def local(self, x: Tensor, axis: int) -> Tensor:
        """Return the owned part of a tensor that is replicated along `axis`. No exchange."""
        return x.narrow(axis, self.start, self.stop - self.start)

    @abstractmethod
    def gather_tokens(self, x: Tensor, axis: int) -> Tensor:
        """Gather the tokens of all ranks, […, R, …] → […, N, …]; gradients are reduce-scattered."""

    @abstractmethod
    def rows_to_columns(self, z_BRNC: Tensor) -> Tensor:
        """Return the owned columns as rows of the transposed pair tensor, [B, R, N, C]."""

    @abstractmethod
    def columns_to_rows(self, z_BRNC: Tensor) -> Tensor:
        """Invert `rows_to_columns`."""

    @abstractmethod
    def rows_to_channels(self, z_BRNC: Tensor) -> Tensor:
        """Return all rows of this rank's share of channels, [B, R, N, C] → [B, N, N, c]."""

    @abstractmethod
    def channels_to_rows(self, z_BNNc: Tensor, channels: int) -> Tensor:
        """Invert `rows_to_channels`; `channels` is C."""

    @abstractmethod
    def stream_rows(self, z_BRNC: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (first row, one past the last, [B, rows, N, C]) over all N rows.

        At most one block of rows is in memory at a time.
        """

    @abstractmethod
    def halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """Extend the owned contiguous part of `axis`: […, n, …] → […, width + n + width, …].

        The ends are copies from the neighbouring ranks, zero beyond the first and the last rank.
        Gradients of the ends are added on the ranks that own those values.
        """

    @abstractmethod
    def sum_ranks(self, x: Tensor) -> Tensor:
        """Return the sum of `x` over ranks, on every rank.

        Every rank computes the same loss from the sum, so that the gradient is passed to `x`
        unchanged and counted once.
        """


class SingleRank(Layout):
    """Layout of one rank, which owns all tokens: each move is the identity or a view."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.start = 0
        self.stop = tokens

    def gather_tokens(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        del axis
        return x

    def rows_to_columns(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        return z_BRNC.transpose(1, 2)

    def columns_to_rows(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        return z_BRNC.transpose(1, 2)

    def rows_to_channels(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        return z_BRNC

    def channels_to_rows(self, z_BNNc: Tensor, channels: int) -> Tensor:
        """See `Layout`."""
        del channels
        return z_BNNc

    def stream_rows(self, z_BRNC: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """See `Layout`."""
        yield 0, self.tokens, z_BRNC

    def halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """See `Layout`."""
        axes_after = x.dim() - 1 - axis % x.dim()
        return F.pad(x, (0, 0) * axes_after + (width, width))

    def sum_ranks(self, x: Tensor) -> Tensor:
        """See `Layout`."""
        return x
