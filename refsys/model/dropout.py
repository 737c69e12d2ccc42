"""Row-shared dropout, with the masks of all sites of a step sampled at once.

In modules that work on the transposed tensor the mask is shared by columns. A shared mask has one
token axis and the channels: a few megabytes for the full model. Sampling masks at each site would
take hundreds of kernel launches. Masks are keyed by (seed, step, example, site, global token), so
they do not depend on the sharding of tokens, and a recomputed block uses the same masks.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from refsys.model.context import Context
from refsys.ops.dropout_residual import dropout_residual
from refsys.streams import Draw


class SharedDropout(nn.Module):
    """Dropout site: add an update to its residual, dropped by a mask that all rows share."""

    def __init__(self, rate: float, channels: int, *, local: bool) -> None:
        """Create an unnumbered site; `DropoutMasks` numbers it.

        Args:
            rate: Probability of dropping a channel.
            channels: C, the channels of the update.
            local: Whether the second token axis is sharded, so that it holds owned tokens only.
        """
        super().__init__()
        self.rate = rate
        self.channels = channels
        self.local = local
        self.number = -1

    def forward(self, residual: Tensor, update: Tensor, context: Context) -> Tensor:
        """Return the residual with the update added, [batch, a, b, C]."""
        return dropout_residual(
            residual, update, self.keep(context), rate=self.rate, shared_axis=-3
        )

    def keep(self, context: Context) -> Tensor | None:
        """Return the mask of this rank [batch, token, C], True where kept; None without dropout."""
        keep = context.masks[self.number] if context.masks and self.rate else None
        if keep is not None and self.local:
            keep = context.layout.local(keep, axis=1)
        return keep


class DropoutMasks(nn.Module):
    """Sampling of the masks of all sites below `root`, which it numbers."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        dropouts = [module for module in root.modules() if isinstance(module, SharedDropout)]
        sites = [site for site in dropouts if site.rate]
        for number, site in enumerate(sites):
            site.number = number
        # A list of plain values rather than of modules, so that the sites are not child modules.
        self._sites = [(site.number, site.channels, site.rate) for site in sites]

    def forward(self, context: Context, device: torch.device) -> tuple[Tensor, ...] | None:
        """Return a mask [batch, token, C] bool of all tokens per site; None without dropout."""
        if context.seed is None:
            return None
        masks: dict[int, Tensor] = {}
        # Sites of equal width and rate share one draw.
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
    """Split the table of masks into one mask per site, each with a batch axis."""
    return (keep if keep.dim() == 4 else keep.unsqueeze(1)).unbind(0)
