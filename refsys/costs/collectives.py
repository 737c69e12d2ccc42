"""Communication of a program: collective calls by kind, and the bytes that a rank sends.

Two figures are counted for each kind. The payload is the tensor data that this rank hands to the
call; the sent bytes are what a rank puts on the wire under the bandwidth-optimal algorithm, with n
bytes of payload and P ranks:

=============== ============================ ====================
kind            payload n of a rank          sent bytes of a rank
=============== ============================ ====================
all_reduce      the tensor                   2 n (P - 1) / P
all_gather      this rank's part             n (P - 1)
reduce_scatter  the tensor, all parts        n (P - 1) / P
all_to_all      the tensor, all parts        n (P - 1) / P
broadcast       the tensor                   n
reduce          the tensor                   n
gather          this rank's part             n
scatter         all parts, on the root alone n (P - 1) / P
send            the tensor                   n
receive         nothing                      0
barrier         nothing                      0
=============== ============================ ====================

Fractions are rounded up to whole bytes in each call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

from refsys.errors import ArgumentError

# Operator -> kind, and the argument that holds the payload.
_C10D: dict[str, tuple[str, int | None]] = {
    "allreduce_": ("all_reduce", 0),
    "allreduce_coalesced_": ("all_reduce", 0),
    "_allgather_base_": ("all_gather", 1),
    "allgather_": ("all_gather", 1),
    "allgather_coalesced_": ("all_gather", 1),
    "allgather_into_tensor_coalesced_": ("all_gather", 1),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "reduce_scatter_": ("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1),
    "alltoall_base_": ("all_to_all", 1),
    "alltoall_": ("all_to_all", 1),
    "broadcast_": ("broadcast", 0),
    "reduce_": ("reduce", 0),
    "gather_": ("gather", 1),
    "scatter_": ("scatter", 1),
    "send": ("send", 0),
    "recv_": ("receive", None),
    "recv_any_source_": ("receive", None),
    "barrier": ("barrier", None),
}
_FUNCTIONAL: dict[str, tuple[str, int | None]] = {
    name + suffix: (kind, 0)
    for name, kind in (
        ("all_reduce", "all_reduce"),
        ("all_gather_into_tensor", "all_gather"),
        ("reduce_scatter_tensor", "reduce_scatter"),
        ("all_to_all_single", "all_to_all"),
        ("broadcast", "broadcast"),
    )
    for suffix in ("", "_", "_coalesced", "_coalesced_")
}
_KINDS = {"c10d": _C10D, "_c10d_functional": _FUNCTIONAL}

_SENT: dict[str, Callable[[int, int], int]] = {
    "all_reduce": lambda n, ranks: -(-2 * n * (ranks - 1) // ranks),
    "all_gather": lambda n, ranks: n * (ranks - 1),
    "reduce_scatter": lambda n, ranks: -(-n * (ranks - 1) // ranks),
    "all_to_all": lambda n, ranks: -(-n * (ranks - 1) // ranks),
    "scatter": lambda n, ranks: -(-n * (ranks - 1) // ranks),
}


class CollectiveKey(NamedTuple):
    """One kind of communication in one phase.

    Attributes:
        phase: Phase in which it was called.
        kind: Kind, as in the table of this module.
        ranks: Ranks in the group.
        operator: Operator of the model that communicates, as the ledger has it
            (`refsys.parallel.ledger`); empty for a call that the ledger does not count.
        direction: ``forward`` or ``backward``, as the ledger has it.
    """

    phase: str
    kind: str
    ranks: int
    operator: str = ""
    direction: str = ""


@dataclass(slots=True)
class Communication:
    """Totals of the calls of one kind, as seen by one rank.

    Attributes:
        calls: Number of calls.
        payload_bytes: Bytes handed to them.
        sent_bytes: Bytes put on the wire; see the table of this module.
        messages: Other ranks that a part was sent to, over all exchanges that the ledger counts.
    """

    calls: int = 0
    payload_bytes: int = 0
    sent_bytes: int = 0
    messages: int = 0


class CollectiveCall(NamedTuple):
    """One call: its kind, the ranks in its group, and its payload in bytes."""

    kind: str
    ranks: int
    payload_bytes: int


def is_collective(func: Any) -> bool:
    """Return whether an operator communicates; waiting for a result does not."""
    return func.namespace in _KINDS and func.overloadpacket.__name__ != "wait_tensor"


def collective_call(func: Any, args: tuple[Any, ...]) -> CollectiveCall | None:
    """Return a call of an operator that communicates; None if its kind is not known."""
    entry = _KINDS[func.namespace].get(func.overloadpacket.__name__)
    if entry is None:
        return None
    kind, position = entry
    tensors = [] if position is None else tree_leaves(args[position])
    nbytes = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
    return CollectiveCall(kind, _group_size(func, args), nbytes)


def sent_bytes(kind: str, payload_bytes: int, ranks: int) -> int:
    """Return the bytes that a rank sends in a call; see the table of this module."""
    formula = _SENT.get(kind)
    if ranks == 1:
        return 0
    return formula(payload_bytes, ranks) if formula else payload_bytes


def _group_size(func: Any, args: tuple[Any, ...]) -> int:
    if func.namespace == "_c10d_functional":
        # The name of the group is the last text among the arguments.
        name: Any = [argument for argument in args if isinstance(argument, str)][-1]
        return int(dist.distributed_c10d._resolve_process_group(name).size())
    for argument in args:
        if isinstance(argument, torch.ScriptObject):
            return int(dist.ProcessGroup.unbox(argument).size())
    raise AssertionError(f"{func} has no process group among its arguments")


@contextmanager
def fake_process_group(ranks: int, rank: int = 0) -> Iterator[None]:
    """Be one of `ranks` ranks inside the block, in a group that communicates nothing.

    The block is entered outside of a fake tensor mode, which device meshes cannot be built in.

    Args:
        ranks: World size, at least 1.
        rank: Rank of this process.

    Raises:
        ArgumentError: the rank is not one of the ranks, or a process group exists.
    """
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if not 0 <= rank < ranks:
        raise ArgumentError(f"rank={rank} is not one of {ranks} ranks; take 0 to {ranks - 1}")
    if dist.is_initialized():
        raise ArgumentError("a process group exists; a fake one needs a process of its own")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
