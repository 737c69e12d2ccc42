"""Execution context of a forward call: layout, randomness and memory savings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from refsys.model.chunks import ALL_AT_ONCE, Chunks, in_chunks, recomputed
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

    def with_rows(self, rows: int) -> "Context":
        """Return this context with chunks of at most `rows` rows."""
        if 0 < self.chunks.rows <= rows:
            return self
        return replace(self, chunks=replace(self.chunks, rows=rows))

    def by_rows(
        self, function: Callable[..., Any], *args: Any, axes: Sequence[int] = (1,), out: int = 1
    ) -> Any:
        """Return `function(*args)`, computed in chunks of rows: see `in_chunks`."""
        return in_chunks(function, self.chunks.rows, *args, axes=axes, out=out)

    def by_samples(
        self, function: Callable[..., Any], *args: Any, axes: Sequence[int] = (1,), out: int = 1
    ) -> Any:
        """Return `function(*args)`, computed in chunks of diffusion samples: see `in_chunks`."""
        return in_chunks(function, self.chunks.samples, *args, axes=axes, out=out)
