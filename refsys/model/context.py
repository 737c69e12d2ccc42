"""What a forward call needs beside its tensors: layout, randomness, checkpointing."""

from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import torch.utils.checkpoint
from torch import Tensor

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
    """

    layout: Layout
    seed: int | None = None
    step: int | Tensor = 0
    example: int | Tensor = 0
    cycle: int = 0
    masks: tuple[Tensor, ...] | None = None
    checkpointing: bool = False

    def run(self, block: Callable[..., Any], *args: Any) -> Any:
        """Calls `block(*args, self)`, recomputing it in the backward pass if checkpointing.

        Randomness is keyed, so that no generator state has to be saved for the recomputation. On
        an accelerator that runs in a thread of autograd's, to which the choices made in this one
        (backends, watchers of scratch memory) are carried.
        """
        if not self.checkpointing or not torch.is_grad_enabled():
            return block(*args, self)
        choices = copy_context()

        def as_chosen(*inputs: Any) -> Any:
            return choices.copy().run(block, *inputs)

        return torch.utils.checkpoint.checkpoint(
            as_chosen, *args, self, use_reentrant=False, preserve_rng_state=False
        )
