"""Execution context of a forward call: layout, randomness and memory savings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from refsys.model.chunks import ALL_AT_ONCE, Chunks, in_chunks, over_input, recomputed
from refsys.model.offload import Offload
from refsys.parallel import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """Execution context of one forward call.

    Attributes:
        layout: Local tokens, and the exchanges with other ranks.
        seed: Seed of the dropout streams; None disables dropout.
        step: Training step (RNG key), an int or a 0-dimensional int64 tensor.
        example: [batch, 1] int64, indices in the global batch (RNG key).
        cycle: Recycling iteration (RNG key).
        masks: Dropout masks by site; None before they are sampled, or without dropout.
        checkpointing: Whether blocks recompute their activations in the backward pass.
        offload: Checkpoints in host memory; None keeps them on the device.
        chunks: Chunk sizes of large intermediates.
        in_place: Whether a module may write its result over the pair slab that it is given, and
            fill results chunk by chunk; for inference alone, without gradients.
    """

    layout: Layout
    seed: int | None = None
    step: int | Tensor = 0
    example: int | Tensor = 0
    cycle: int = 0
    masks: tuple[Tensor, ...] | None = None
    checkpointing: bool = False
    offload: Offload | None = None
    chunks: Chunks = ALL_AT_ONCE
    in_place: bool = False

    def run(self, block: Callable[..., Any], *args: Any, shared: int = 0) -> Any:
        """Return `block(*args, self)`; recompute it in the backward pass if checkpointing.

        Args:
            block: Deterministic function of its arguments and a context.
            *args: Arguments, as for `recomputed`.
            shared: Number of arguments, the last ones, that other blocks read too; they stay on the
                device.
        """
        if not self.checkpointing:
            return block(*args, self)
        if self.offload is None:
            return recomputed(block, *args, self)
        return self.offload.run(block, *args, self, shared=shared + 1)

    def splits_rows(self, rows: int) -> bool:
        """Return True if `by_rows` processes `rows` rows in more than one chunk.

        The result may differ between ranks, so exchanges must not depend on it.
        """
        return 0 < self.chunks.rows < rows

    def writes_over_pairs(self) -> bool:
        """Return True if results are written over the pair slab that they replace.

        This is so if `in_place` allows it and rows are computed in chunks; the same on all ranks.
        """
        rows = -(-self.layout.tokens // self.layout.ranks)
        return self.in_place and self.splits_rows(rows)

    def with_rows(self, rows: int) -> "Context":
        """Return this context with chunks of at most `rows` rows."""
        if 0 < self.chunks.rows <= rows:
            return self
        return replace(self, chunks=replace(self.chunks, rows=rows))

    def by_rows(
        self, function: Callable[..., Any], *args: Any, axes: Sequence[int] = (1,), out: int = 1
    ) -> Any:
        """Return `function(*args)`, computed in chunks of rows: see `in_chunks`."""
        return self._in_chunks(function, self.chunks.rows, *args, axes=axes, out=out)

    def by_msa_rows(
        self, function: Callable[..., Any], *args: Any, axes: Sequence[int] = (1,)
    ) -> Any:
        """Return `function(*args)`, computed in chunks of MSA rows.

        A row of the owned tokens is shorter than a row of pairs by the number of ranks, so that so
        many times as many are computed at once.
        """
        rows = self.chunks.rows * self.layout.ranks
        return self._in_chunks(function, rows, *args, axes=axes, out=1)

    def update_rows(
        self, function: Callable[..., Tensor], x: Tensor, *args: Any, axes: Sequence[int] = (1,)
    ) -> Tensor:
        """Return `function(x, *args)`, of the shape of `x`, as `by_rows` does.

        Where `writes_over_pairs` holds it is written over `x`, which the caller must not use again.
        """
        if not self.writes_over_pairs():
            return self.by_rows(function, x, *args, axes=axes)
        return over_input(function, self.chunks.rows, x, *args, axes=axes)

    def by_samples(
        self, function: Callable[..., Any], *args: Any, axes: Sequence[int] = (1,), out: int = 1
    ) -> Any:
        """Return `function(*args)`, computed in chunks of diffusion samples: see `in_chunks`."""
        return self._in_chunks(function, self.chunks.samples, *args, axes=axes, out=out)

    def _in_chunks(
        self, function: Callable[..., Any], size: int, *args: Any, axes: Sequence[int], out: int
    ) -> Any:
        return in_chunks(function, size, *args, axes=axes, out=out, in_place=self.in_place)
