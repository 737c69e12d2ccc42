"""What a forward call needs beside its tensors: layout, randomness, how memory is saved."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from refsys.model.chunks import ALL_AT_ONCE, Chunks, in_chunks, recomputed
from refsys.parallel import Layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """One forward call.

    Attributes:
        layout: Which tokens are local, and how to reach the others.
        seed: Seed of the dropout streams; None runs without dropout.
        step: Training step, a key of every draw; an int or a 0-dimensional int64 tensor.
        example: [batch, 1] int64, the examples' identities.
        cycle: Recycling iteration, a key of every draw.
        masks: Dropout masks by site, once drawn.
        checkpointing: Whether blocks recompute their activations in the backward pass.
        chunks: How much of a large intermediate is made at once.
    """

    layout: Layout
    seed: int | None = None
    step: int | Tensor = 0
    example: int | Tensor = 0
    cycle: int = 0
    masks: tuple[Tensor, ...] | None = None
    checkpointing: bool = False
    chunks: Chunks = ALL_AT_ONCE

    def run(self, block: Callable[..., Any], *args: Any) -> Any:
        """Calls `block(*args, self)`, recomputing it in the backward pass if checkpointing."""
        if not self.checkpointing:
            return block(*args, self)
        return recomputed(block, *args, self)

    def cuts_rows(self, rows: int) -> bool:
        """Whether `by_rows` takes so many rows in more than one part.

        Ranks may have different answers: what they exchange must not depend on it.
        """
        return 0 < self.chunks.rows < rows

    def by_rows(
        self, function: Callable[..., Any], *args: Any, axes: Sequence[int] = (1,), out: int = 1
    ) -> Any:
        """`function(*args)`, some rows at a time: see `in_chunks`."""
        return in_chunks(function, self.chunks.rows, *args, axes=axes, out=out)

    def by_samples(
        self, function: Callable[..., Any], *args: Any, axes: Sequence[int] = (1,), out: int = 1
    ) -> Any:
        """`function(*args)`, some diffusion samples at a time: see `in_chunks`."""
        return in_chunks(function, self.chunks.samples, *args, axes=axes, out=out)
