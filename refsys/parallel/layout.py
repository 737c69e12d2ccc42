"""Layout interface: the tokens and atoms that a rank owns, and the moves between shardings.

A rank owns a slab: the contiguous tokens [start, stop) of N, and with them rows [start, stop) of
every pair tensor, all N columns and all channels. R = stop − start may differ between ranks. It
also owns the contiguous atoms [atom_start, atom_stop), whole windows of attention. The batch, and
positions of atoms outside the model, are replicated on every rank. A move and its inverse are exact
duals under differentiation.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, c this rank's share of channels,
T tokens of the owned atoms, U tokens of their keys.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout(ABC):
    """Slab of this rank, and the exchanges with other ranks.

    Attributes:
        ranks: Number of ranks that divide the tokens.
        tokens: N, the number of tokens on all ranks.
        start: First owned token.
        stop: One past the last owned token.
        atom_start: First owned atom.
        atom_stop: One past the last owned atom.
        atom_tokens: First token of the owned atoms, and one past the last.
        key_tokens: The same for the owned atoms and those that they attend to.
    """

    ranks: int
    tokens: int
    start: int
    stop: int
    atom_start: int
    atom_stop: int
    atom_tokens: tuple[int, int]
    key_tokens: tuple[int, int]

    @property
    def is_unsharded(self) -> bool:
        """Return True if this rank owns all tokens."""
        return self.stop - self.start == self.tokens

    def local(self, x: Tensor, axis: int) -> Tensor:
        """Return the owned part of a tensor that is replicated along `axis`. No exchange."""
        return x.narrow(axis, self.start, self.stop - self.start)

    def narrowed(self, first: int, last: int) -> Self:
        """Return this layout with some of its owned rows, counted from 0, for `local` alone."""
        other = copy.copy(self)
        other.start, other.stop = self.start + first, self.start + last
        return other

    @abstractmethod
    def named(self, operator: str) -> "Layout":
        """Return this layout with its exchanges counted under the name of an operator."""

    @abstractmethod
    def gather_tokens(self, x: Tensor, axis: int) -> Tensor:
        """Gather the tokens of all ranks, […, R, …] → […, N, …]; gradients are reduce-scattered."""

    @abstractmethod
    def gather_together(self, tensors: Sequence[Tensor], axis: int) -> tuple[Tensor, ...]:
        """Return `gather_tokens` of tensors of one shape, in one exchange."""

    @abstractmethod
    def rows_to_columns(self, z_BRNC: Tensor) -> Tensor:
        """Return the owned columns as rows of the transposed pair tensor, [B, R, N, C]."""

    @abstractmethod
    def columns_to_rows(self, z_BRNC: Tensor) -> Tensor:
        """Invert `rows_to_columns`."""

    @abstractmethod
    def by_channels(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        a_BRNC: Tensor,
        b_BRNC: Tensor,
        *,
        outgoing: bool,
    ) -> Tensor:
        """Return `function(a, b)`, computed for all rows of some channels at a time.

        Args:
            function: Contraction of two tensors [B, N, N, c] to one; channel by channel.
            a_BRNC: Owned rows of the first operand.
            b_BRNC: Owned rows of the second one.
            outgoing: Whether the contraction is over the columns of both operands; otherwise over
                their rows.

        Returns:
            Owned rows of the result, [B, R, N, C].
        """

    def gather_in_pieces(
        self, function: Callable[[Tensor], Tensor], x: Tensor, axis: int, size: int
    ) -> Tensor:
        """Return `gather_tokens` of `function(x)`, computed and moved in pieces; no gradients.

        Args:
            function: Function that is local to each row of x.
            x: Tensor whose axis 1 has the owned tokens.
            axis: Axis of the tokens in the result.
            size: Rows of a piece, about.
        """
        return self.gather_tokens(
            torch.cat([function(part) for part in x.split(size, 1)], axis), axis
        )

    def swap_in_pieces(self, z_BRNC: Tensor, size: int, out_BRNC: Tensor | None = None) -> Tensor:
        """Return `rows_to_columns`, moved in pieces; no gradients.

        Args:
            z_BRNC: Owned rows, or owned columns as rows of the transposed tensor.
            size: Rows of a piece, about.
            out_BRNC: Tensor that may be written and returned; a new one, or a view of `z_BRNC`, if
                None. A result that is a view leaves it as it is.
        """
        del size, out_BRNC
        return self.rows_to_columns(z_BRNC)

    def by_channels_in_pieces(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        operands: Callable[[int, int], tuple[Tensor, Tensor]],
        size: int,
        *,
        outgoing: bool,
    ) -> Tensor:
        """Return `by_channels` of operands that are computed in pieces of rows; no gradients.

        Args:
            function: See `by_channels`.
            operands: Function from the first and one past the last of some owned rows, counted
                from 0, to both operands there.
            size: Rows of a piece, about.
            outgoing: See `by_channels`.
        """
        rows = self.stop - self.start
        a_BRNC = b_BRNC = None
        for first in range(0, rows, size):
            last = min(first + size, rows)
            a_BrNC, b_BrNC = operands(first, last)
            if a_BRNC is None or b_BRNC is None:
                shape = (a_BrNC.shape[0], rows, *a_BrNC.shape[2:])
                a_BRNC, b_BRNC = a_BrNC.new_empty(shape), b_BrNC.new_empty(shape)
            a_BRNC[:, first:last].copy_(a_BrNC)
            b_BRNC[:, first:last].copy_(b_BrNC)
        assert a_BRNC is not None, "a rank owns at least one row"
        assert b_BRNC is not None, "a rank owns at least one row"
        return self.by_channels(function, a_BRNC, b_BRNC, outgoing=outgoing)

    @abstractmethod
    def streamed(self) -> list[tuple[int, int]]:
        """Return the first and one past the last token of each block of `stream`, in its order."""

    @abstractmethod
    def stream(self, x: Tensor, axis: int) -> Iterator[Tensor]:
        """Yield the blocks of a tensor, […, R, …], of all ranks: see `streamed`.

        Without gradients at most two blocks are in memory at a time. A contiguous tensor is sent
        without a copy.
        """

    @abstractmethod
    def local_atoms(self, x: Tensor, axis: int) -> Tensor:
        """Return the owned part of a tensor that is replicated along its atoms. No exchange."""

    @abstractmethod
    def gather_atoms(self, x: Tensor, axis: int) -> Tensor:
        """Gather the atoms of all ranks; gradients are reduce-scattered."""

    @abstractmethod
    def halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """Extend the owned atoms by `width` atoms on either side of `axis`.

        The ends are copies from other ranks, zero beyond the first and the last atom. Gradients of
        the ends are added on the ranks that own those values.
        """

    @abstractmethod
    def local_halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """Return the result of `halo` for a tensor that is replicated. No exchange."""

    @abstractmethod
    def tokens_of_atoms(self, x: Tensor, axis: int) -> Tensor:
        """Return the tokens `atom_tokens` from the owners: […, R, …] → […, T, …]."""

    @abstractmethod
    def sum_to_tokens(self, x: Tensor, axis: int) -> Tensor:
        """Return the sum over ranks of the owned tokens, […, T, …] → […, R, …]."""

    @abstractmethod
    def pairs_of_atoms(self, z_BRNC: Tensor) -> Tensor:
        """Return rows `atom_tokens` and columns `key_tokens` of a pair tensor, [B, T, U, C]."""

    @abstractmethod
    def sum_ranks(self, x: Tensor) -> Tensor:
        """Return the sum of `x` over ranks, on every rank.

        Every rank computes the same loss from the sum, so that the gradient is passed to `x`
        unchanged and counted once.
        """


class SingleRank(Layout):
    """Layout of one rank, which owns everything: each move is the identity or a view."""

    def __init__(self, tokens: int, atoms: int = 0) -> None:
        self.ranks, self.tokens, self.start, self.stop = 1, tokens, 0, tokens
        self.atom_start, self.atom_stop = 0, atoms
        self.atom_tokens = self.key_tokens = 0, tokens

    def named(self, operator: str) -> "Layout":
        """See `Layout`."""
        del operator
        return self

    def gather_tokens(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        del axis
        return x

    def gather_together(self, tensors: Sequence[Tensor], axis: int) -> tuple[Tensor, ...]:
        """See `Layout`."""
        del axis
        return tuple(tensors)

    def rows_to_columns(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        return z_BRNC.transpose(1, 2)

    def columns_to_rows(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        return z_BRNC.transpose(1, 2)

    def by_channels(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        a_BRNC: Tensor,
        b_BRNC: Tensor,
        *,
        outgoing: bool,
    ) -> Tensor:
        """See `Layout`."""
        del outgoing
        return function(a_BRNC, b_BRNC)

    def streamed(self) -> list[tuple[int, int]]:
        """See `Layout`."""
        return [(0, self.tokens)]

    def stream(self, x: Tensor, axis: int) -> Iterator[Tensor]:
        """See `Layout`."""
        del axis
        yield x

    def local_atoms(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        del axis
        return x

    def gather_atoms(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        del axis
        return x

    def halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """See `Layout`."""
        return padded(x, axis, width, width)

    def local_halo(self, x: Tensor, axis: int, width: int) -> Tensor:
        """See `Layout`."""
        return padded(x, axis, width, width)

    def tokens_of_atoms(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        del axis
        return x

    def sum_to_tokens(self, x: Tensor, axis: int) -> Tensor:
        """See `Layout`."""
        del axis
        return x

    def pairs_of_atoms(self, z_BRNC: Tensor) -> Tensor:
        """See `Layout`."""
        return z_BRNC

    def sum_ranks(self, x: Tensor) -> Tensor:
        """See `Layout`."""
        return x


def padded(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Return `x` with zeros, or False, added at both ends of an axis."""
    axes_after = x.dim() - 1 - axis % x.dim()
    return F.pad(x, (0, 0) * axes_after + (before, after))
