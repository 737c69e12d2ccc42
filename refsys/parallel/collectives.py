"""Collective operations between ranks, with a count of calls and bytes.

All collectives of the project are called through this module, so that the communication of a step
is known exactly.
"""

from collections import Counter
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of the collective operations of this process.

    Attributes:
        calls: Number of operations.
        nbytes: Bytes of the tensors passed to them.
    """

    calls: int = 0
    nbytes: int = 0

    def since(self, before: "Traffic") -> "Traffic":
        """Return the difference from an earlier reading."""
        return Traffic(self.calls - before.calls, self.nbytes - before.nbytes)


_counted: Counter[str] = Counter()


def traffic() -> Traffic:
    """Return the current reading of the counters."""
    return Traffic(**_counted)


def all_reduce_begin(tensor: Tensor, group: dist.ProcessGroup | None = None) -> dist.Work:
    """Start an in-place sum of a tensor over the ranks.

    Args:
        tensor: Any shape; the same shape and dtype on every rank.
        group: Ranks that take part; all if None.

    Returns:
        Handle of the operation; the sum is complete once `wait` on it has returned.
    """
    _counted.update(calls=1, nbytes=tensor.numel() * tensor.element_size())
    work = dist.all_reduce(tensor, group=group, async_op=True)
    assert work is not None, "an asynchronous collective returns a handle"
    return work
