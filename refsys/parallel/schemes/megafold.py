"""Sharding of MegaFold as released (github.com/Supercomputing-System-AI-Lab/MegaFold).

DAP, but the backward pass of a gather only takes the owned part of the gradient (`Gather.backward =
_split`), where the exact dual also adds the gradients of the other ranks. The loss is right and the
gradients are wrong for P > 1. Of the gradient of a gathered tensor a rank receives its own
contribution, one of P. If the contributions are independent and of equal size, as for random
values, and the gathered operand accounts for half of the squared gradient, as in outgoing triangle
multiplication, the relative error of the gradient is √((1 − 1/P) / 2): 0.50, 0.58, 0.61 for P = 2,
3, 4.

Bytes that one rank sends per pair block: forward as `DAP`; backward only the swaps of axes,
4 U (P−1)/P, in 4 (P−1) messages. The missing (2 + 2 h)(P−1) U are the dropped contributions.

Not modelled: the release gathers the pair representation to N² c at the end of its stacks, which
adds (P−1) U there, and shards neither templates nor diffusion by tokens.
"""

import torch
from torch import Tensor

from refsys.parallel.row_slab import resized
from refsys.parallel.schemes.dap import DAP
from refsys.parallel.shares import sizes


class MegaFold(DAP):
    """DAP whose gathers drop the gradients of the other ranks: for measurement only."""

    def gather_tokens(self, x: Tensor, axis: int) -> Tensor:
        """Gather the tokens of all ranks; the gradient is the owned part of this rank's alone."""
        parts = [x.detach()] * self.ranks
        parts[self.rank] = x
        shapes = [resized(x, axis, count) for count in sizes(self._slabs)]
        return torch.cat(self._begin(parts, shapes).wait(), dim=axis)
