"""The layout contract: which tokens a rank owns, and the moves between shardings.

A rank owns a slab: the contiguous tokens [start, stop) of N, and with them rows [start, stop) of
every pair tensor, all N columns and all channels. R = stop − start need not be the same on every
rank. Moves are exact duals of their inverses under differentiation.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, c this rank's share of channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor


class Layout(ABC):
    """Where this rank's slab lies, and how to reach the rest.

    Attributes:
        tokens: N, how many tokens there are on all ranks.
        start: First owned token.
        stop: One past the last owned token.
    """

    tokens: int
    start: int
    stop: int

    @property
    def is_whole(self) -> bool:
        """Whether this rank owns all tokens."""
        return self.stop - self.start == self.tokens

    def local(self, x: Tensor, axis: int) -> Tensor:
        """The owned part of a tensor that every rank holds whole along `axis`. No exchange."""
        return x.narrow(axis, self.start, self.stop - self.start)

    @abstractmethod
    def gather_tokens(self, x: Tensor, axis: int) -> Tensor:
        """[…, R, …] → […, N, …] along `axis`: all ranks' tokens. Gradients are summed back."""

    @abstractmethod
    def rows_to_columns(self, z_BRNC: Tensor) -> Tensor:
        """[B, R, N, C] rows → [B, R, N, C] rows of the transposed pair tensor: owned columns."""

    @abstractmethod
    def columns_to_rows(self, z_BRNC: Tensor) -> Tensor:
        """The inverse of `rows_to_columns`."""

    @abstractmethod
    def rows_to_channels(self, z_BRNC: Tensor) -> Tensor:
        """[B, R, N, C] → [B, N, N, c]: all rows of this rank's share of the channels."""

    @abstractmethod
    def channels_to_rows(self, z_BNNc: Tensor, channels: int) -> Tensor:
        """The inverse of `rows_to_channels`; `channels` is C."""

    @abstractmethod
    def stream_rows(self, z_BRNC: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Yields (first row, one past the last, [B, rows, N, C]) until all N rows have passed.

        No more than one block of rows is held at a time.
        """

    @abstractmethod
    def halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """[…, n, …] → […, width + n + width, …] along `axis`, of which ranks own contiguous parts.

        The ends come from the neighbouring ranks' parts; beyond the first and the last part they
        are zero. Gradients are added back where the values came from.
        """

    @abstractmethod
    def sum_ranks(self, x: Tensor) -> Tensor:
        """The sum of `x` over ranks, on every rank.

        Every rank holds the sum and differentiates the same loss of it, so that the gradient
        reaches `x` as it is, counted once.
        """


class SingleRank(Layout):
    """One rank that owns everything: each move is the identity, or a view."""

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
