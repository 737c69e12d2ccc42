"""Link model: time of collectives from messages and bytes, inside a node and across nodes.

A group is made of consecutive ranks, and a node holds `ranks_per_node` of them, so that a group of
P ranks has g = min(P, ranks_per_node) on each node. With α the latency of a message and β the
bandwidth of a link times the share that is achieved, and S the bytes that a rank sends
(`refsys.costs.collectives`), one collective takes its start, and

================================== ==========================================================
kind                               time
================================== ==========================================================
all_to_all, gather, scatter        messages · α + S · share / β inside and across, one after the
                                   other; (g - 1) / (P - 1) of the peers are inside the node
all_to_all_inside,                 the same, of which all is inside a node, or all across: the
all_to_all_across                  stages of a hierarchical exchange (`refsys.parallel`)
all_reduce, all_gather,            messages · α + S / β of the slower stage: rings pass through
reduce_scatter, broadcast, reduce  every device of a node, and each of its g ports carries its
                                   part of what leaves the node
send, receive                      messages · α + S / β, across nodes where the group spans several
barrier                            messages · α
================================== ==========================================================

α and β across nodes are those of the network where a ring or a message leaves the node. Where each
pair of devices has wires of its own, g ranks use g - 1 of them. Ranks are taken to begin at once:
waiting for the slowest is not in the model, nor is contention of groups for a network.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from refsys.costs.collectives import Communication
from refsys.costs.devices import Link
from refsys.errors import ArgumentError

# Collectives whose parts go from each rank to each other one.
_PAIRWISE = frozenset({"all_to_all", "gather", "scatter"})
# Stages of a hierarchical exchange, and their share inside a node.
_STAGES = {"all_to_all_inside": 1.0, "all_to_all_across": 0.0}
_RINGS = frozenset({"all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce"})
_ONE_PEER = frozenset({"send", "receive"})
INSIDE, ACROSS = "link inside a node", "link across nodes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """Links between ranks.

    Attributes:
        ranks_per_node: Ranks of a node.
        inside: Link between devices of a node; None if it is not known.
        across: Network between nodes, one port for each device; None if it is not known.
        share: Share of a link's bandwidth that is achieved.
        start_s: Time until a collective's first byte.
    """

    ranks_per_node: int = 8
    inside: Link | None = None
    across: Link | None = None
    share: float = 1.0
    start_s: float = 0.0

    def __post_init__(self) -> None:
        if self.ranks_per_node < 1:
            raise ArgumentError(f"ranks_per_node={self.ranks_per_node} must be at least 1")


class Transfer(NamedTuple):
    """Time of collectives.

    Attributes:
        seconds: Time by the links that are known.
        unknown: Links that are used and not known.
    """

    seconds: float
    unknown: tuple[str, ...] = ()


def transfer_time(kind: str, ranks: int, total: Communication, network: Network) -> Transfer:
    """Return the time of all collectives of a kind, one after another.

    Args:
        kind: Kind, as in the table of `refsys.costs.collectives`.
        ranks: Ranks of the group.
        total: Calls, bytes and messages of this rank. Messages that were not counted are those of
            `algorithm_messages`.
        network: Links between the ranks.
    """
    if ranks == 1 or not total.calls:
        return Transfer(0.0)
    on_node = min(ranks, network.ranks_per_node)
    messages = total.messages or total.calls * algorithm_messages(kind, ranks)
    inside_share = _inside_share(kind, on_node, ranks)
    seconds, unknown = total.calls * network.start_s, []
    for name, link, share in (
        (INSIDE, network.inside, inside_share),
        (ACROSS, network.across, 1 - inside_share),
    ):
        if share and link is None:
            unknown.append(name)
        elif share and link is not None:
            seconds += messages * share * link.latency_s
    bandwidths = [
        (INSIDE, network.inside, _inside_bytes(kind, on_node, inside_share, network)),
        (ACROSS, network.across, _across_bytes(kind, on_node, ranks, inside_share)),
    ]
    stages = []
    for name, link, weight in bandwidths:
        if not weight or not total.sent_bytes:
            continue
        if link is None:
            unknown.append(name)
        else:
            stages.append(total.sent_bytes * weight / (link.bytes_s * network.share))
    together = max(stages, default=0.0) if kind in _RINGS else sum(stages)
    return Transfer(seconds + together, tuple(dict.fromkeys(unknown)))


def algorithm_messages(kind: str, ranks: int) -> int:
    """Return the messages that follow one another in a collective, where none are counted.

    All-reduce and barrier are those of a tree there and back; others pass P - 1 steps of a ring.
    """
    if ranks == 1:
        return 0
    if kind in _ONE_PEER:
        return 1
    if kind in {"all_reduce", "barrier"}:
        return 2 * math.ceil(math.log2(ranks))
    if kind in {"broadcast", "reduce"}:
        return math.ceil(math.log2(ranks))
    return ranks - 1


def _inside_share(kind: str, on_node: int, ranks: int) -> float:
    """Return the share of the messages that stay inside a node."""
    if kind in _PAIRWISE:
        return (on_node - 1) / (ranks - 1)
    return _STAGES.get(kind, float(on_node == ranks))


def _inside_bytes(kind: str, on_node: int, share: float, network: Network) -> float:
    """Return the bytes inside a node by those sent, times how much of the link is left out."""
    if on_node == 1:
        return 0.0
    peers = network.inside.peers if network.inside else None
    if kind in _ONE_PEER:
        return share * (peers or 1.0)
    narrowing = max(1.0, peers / (on_node - 1)) if peers else 1.0
    return narrowing if kind in _RINGS else share * narrowing


def _across_bytes(kind: str, on_node: int, ranks: int, inside_share: float) -> float:
    """Return the bytes through a device's port to other nodes, by those sent."""
    if on_node == ranks:
        return 0.0
    return 1.0 / on_node if kind in _RINGS else 1 - inside_share
