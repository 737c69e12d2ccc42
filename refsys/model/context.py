"""What a forward call needs beside its tensors: layout, randomness, checkpointing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch.utils.checkpoint
from torch import Tensor, nn

from refsys.parallel import Layout
from refsys.streams import Draw


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """One forward call.

    Attributes:
        layout: Which tokens are local, and how to reach the others.
        seed: Seed of the dropout streams; None runs without dropout.
        step: Training step, a key of every draw; an int or a 0-dimensional int64 tensor.
        example: [batch, 1] int64, the examples' identities.
        cycle: Recycling iteration, a key of every draw.
        checkpointing: Whether blocks recompute their activations in the backward pass.
    """

    layout: Layout
    seed: int | None = None
    step: int | Tensor = 0
    example: int | Tensor = 0
    cycle: int = 0
    checkpointing: bool = False

    def draw(self, site: str) -> Draw | None:
        """The draw of the dropout mask at `site`, or None without dropout."""
        if self.seed is None:
            return None
        return Draw(self.seed, f"dropout/{site}/{self.cycle}", self.step, self.example)

    def in_cycle(self, cycle: int) -> "Context":
        """The same call in another recycling iteration."""
        return replace(self, cycle=cycle)

    def run(self, block: Callable[..., Any], *args: Any) -> Any:
        """Calls `block(*args, self)`, recomputing it in the backward pass if checkpointing.

        Randomness is keyed, so that no generator state has to be saved for the recomputation.
        """
        if not self.checkpointing or not torch.is_grad_enabled():
            return block(*args, self)
        return torch.utils.checkpoint.checkpoint(
            block, *args, self, use_reentrant=False, preserve_rng_state=False
        )


def name_dropout_sites(root: nn.Module) -> None:
    """Gives each module below `root` that draws dropout its path, the name of its stream."""
    for path, module in root.named_modules():
        if hasattr(module, "dropout_site"):
            module.dropout_site = path
