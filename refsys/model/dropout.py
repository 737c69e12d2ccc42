"""Row-shared dropout, its masks drawn for all sites of a step at once.

Columns share theirs where a module works on the transposed tensor. A mask that an axis shares is
one token axis by channels: for the whole model a few megabytes, against hundreds of kernel launches
if each site drew its own. Masks are keyed by (seed, step, example, site, global token), so they do
not depend on how tokens are spread over ranks, and a recomputed block finds the same ones.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from refsys.model.context import Context
from refsys.ops.dropout_residual import dropout_residual
from refsys.streams import Draw


class SharedDropout(nn.Module):
    """One site: adds an update to its residual, dropped by a mask that all rows share."""

    def __init__(self, rate: float, channels: int, *, local: bool) -> None:
        """Describes the site.

        Args:
            rate: Probability of dropping.
            channels: C of the update.
            local: Whether the second token axis holds this rank's tokens alone.
        """
        super().__init__()
        self.rate = rate
        self.channels = channels
        self.local = local
        self.number = -1

    def forward(self, residual: Tensor, update: Tensor, context: Context) -> Tensor:
        """[batch, a, b, C]: the residual with the update added."""
        return dropout_residual(
            residual, update, self.keep(context), rate=self.rate, shared_axis=-3
        )

    def keep(self, context: Context) -> Tensor | None:
        """[batch, kept, C] bool: what this rank keeps; None drops nothing."""
        keep = context.masks[self.number] if context.masks and self.rate else None
        if keep is not None and self.local:
            keep = context.layout.local(keep, axis=1)
        return keep


class DropoutMasks(nn.Module):
    """Draws the masks of every site below `root`, and numbers the sites."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        dropouts = [module for module in root.modules() if isinstance(module, SharedDropout)]
        sites = [site for site in dropouts if site.rate]
        for number, site in enumerate(sites):
            site.number = number
        # Sites of one width and rate share a draw; a plain list, so that they are not children.
        self._sites = [(site.number, site.channels, site.rate) for site in sites]

    def forward(self, context: Context, device: torch.device) -> tuple[Tensor, ...] | None:
        """[batch, token, C] bool for each site, all tokens; None without dropout."""
        if context.seed is None:
            return None
        masks: dict[int, Tensor] = {}
        for channels, rate in sorted({(channels, rate) for _, channels, rate in self._sites}):
            numbers = [n for n, c, r in self._sites if (c, r) == (channels, rate)]
            draw = Draw(
                context.seed,
                f"dropout/{channels}/{rate}/{context.cycle}",
                context.step,
                context.example,
            )
            count = context.layout.tokens * channels
            uniform = draw.uniform_table_on(device, rows=len(numbers), count=count)
            keep = (uniform >= rate).unflatten(-1, (-1, channels))
            masks.update(zip(numbers, _batched(keep), strict=True))
        return tuple(masks[number] for number in range(len(self._sites)))


def _batched(keep: Tensor) -> Iterable[Tensor]:
    """The sites' masks, each with a batch axis."""
    return (keep if keep.dim() == 4 else keep.unsqueeze(1)).unbind(0)
