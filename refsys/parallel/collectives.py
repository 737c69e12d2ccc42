"""Collective operations between ranks, each counted.

Every one goes through here, so that what a step communicates is known exactly.
"""

from collections import Counter
from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Traffic:
    """What this process has handed to collective operations so far.

    Attributes:
        calls: How many operations.
        nbytes: Bytes of the tensors that it gave them.
    """

    calls: int = 0
    nbytes: int = 0

    def since(self, before: "Traffic") -> "Traffic":
        """What came after an earlier reading."""
        return Traffic(self.calls - before.calls, self.nbytes - before.nbytes)


_counted: Counter[str] = Counter()


def traffic() -> Traffic:
    """The reading now."""
    return Traffic(**_counted)


def all_reduce_begin(tensor: Tensor, group: dist.ProcessGroup | None = None) -> dist.Work:
    """Begins to sum a tensor over the ranks, in place; done when what it returns was waited for.

    Args:
        tensor: Any shape; the same shape and dtype on every rank.
        group: The ranks; all if None.
    """
    _counted.update(calls=1, nbytes=tensor.numel() * tensor.element_size())
    work = dist.all_reduce(tensor, group=group, async_op=True)
    assert work is not None, "an asynchronous collective gives something to wait for"
    return work
