"""Exchange in two stages: within the nodes first, then across them.

P ranks are nodes of g ranks, in the order of the nodes; rank (s, l) is local rank l of node s.

1. Inside a node, rank (s, m) gives rank (s, l) its parts for local rank l of every node.
2. Across nodes, rank (s, l) sends rank (d, l) the parts that the ranks of node s have for it. They
   arrive in the order of the ranks.

A rank sends nodes − 1 messages across nodes, of g parts each, in place of the P − g messages of an
exchange that sends every part directly. With equal parts of V elements in all, and what a rank
keeps counted, V (g − 1)/g is sent inside a node and V (nodes − 1)/nodes across; directly,
V (g − 1)/P and V (P − g)/P. So the bytes across are the same, and those inside more by almost V.

The parts are moved and never added, so that results have the same bits, and the gradient of an
exchange is the exchange in the other direction. Stage 1 is waited for when an exchange starts, and
stage 2 overlaps what is computed until its end is waited for. The ledger counts the stages under
kinds of their own. Both are calls on the group of all ranks in which the other ranks have no
elements, so that no group for each node and each local rank is needed.
"""

from collections.abc import Sequence
from math import prod

import torch.distributed as dist
from torch import Tensor

from refsys.errors import ArgumentError
from refsys.parallel.collectives import GroupExchange, PartSizes, Transfer, packed
from refsys.parallel.ledger import LEDGER, Ledger

# Kinds of collective operation under which the stages are counted.
INSIDE, ACROSS = "all_to_all_inside", "all_to_all_across"


class HierarchicalExchange(GroupExchange):
    """Exchange in two stages among nodes of equally many ranks.

    Exchanges whose sizes are not known on every rank are sent directly.

    Attributes:
        node_ranks: g, ranks of a node.
        nodes: Number of nodes.
    """

    def __init__(
        self,
        node_ranks: int,
        group: dist.ProcessGroup | None = None,
        ledger: Ledger = LEDGER,
    ) -> None:
        """Use a group that exists, of consecutive ranks of whole nodes.

        Args:
            node_ranks: Ranks of a node.
            group: Ranks that take part; all if None.
            ledger: Counters.

        Raises:
            ArgumentError: the ranks are not whole nodes.
        """
        super().__init__(group, ledger)
        if node_ranks < 1 or self.ranks % node_ranks:
            raise ArgumentError(
                f"{self.ranks} ranks are no whole nodes of {node_ranks}; take a multiple of the "
                "ranks of a node, or exchange=plain"
            )
        self.node_ranks, self.nodes = node_ranks, self.ranks // node_ranks

    def transfer(
        self,
        sent: Sequence[Sequence[int]],
        received: Sequence[Sequence[int]],
        operator: str,
        direction: str,
        together: int,
        sizes: PartSizes | None,
    ) -> Transfer:
        """See `GroupExchange`.

        Raises:
            ArgumentError: a part has another size than all ranks take it to have.
        """
        if sizes is None or 1 in (self.nodes, self.node_ranks):
            return super().transfer(sent, received, operator, direction, together, sizes)
        return RelayedTransfer(self, sent, received, operator, direction, together, sizes)


class RelayedTransfer(Transfer):
    """Transfer in two stages, in both directions."""

    def __init__(
        self,
        exchange: HierarchicalExchange,
        sent: Sequence[Sequence[int]],
        received: Sequence[Sequence[int]],
        operator: str,
        direction: str,
        together: int,
        sizes: PartSizes,
    ) -> None:
        super().__init__(exchange, sent, received, operator, direction, together)
        self._nodes, self._width = exchange.nodes, exchange.node_ranks
        self._rank, self._sizes = exchange.rank, sizes
        self._node, self._local = divmod(exchange.rank, exchange.node_ranks)
        for rank, (send, receive) in enumerate(
            zip(self._by_rank(sent), self._by_rank(received), strict=True)
        ):
            agreed = self._size(self._rank, rank), self._size(rank, self._rank)
            if agreed != (send, receive):
                raise ArgumentError(
                    f"{operator}: rank {self._rank} sends {send} elements to rank {rank} and "
                    f"receives {receive}, and the sizes known to every rank are "
                    f"{agreed[0]} and {agreed[1]}; state the sizes of the parts"
                )

    def start(self, parts: Sequence[Tensor], *, backward: bool) -> None:
        """Do stage 1 and start stage 2; see `Transfer`."""
        # The parts are relayed one by one, also where they are packed.
        self.buffer = None
        way = "backward" if backward else self._direction
        relayed, direct = self._inside(parts, way, backward=backward)
        # By node, the parts of each local rank.
        pieces = [
            piece
            for node in range(self._nodes)
            for local in range(self._width)
            for piece in (direct[node] if local == self._local else [relayed[local][node]])
            if piece.numel()
        ]
        flat = packed(pieces or [parts[0].reshape(-1)[:0]])
        del pieces, relayed, direct
        send, receive = [0] * (self._nodes * self._width), [0] * (self._nodes * self._width)
        for node in range(self._nodes):
            counterpart = self._at(node, self._local)
            for local in range(self._width):
                source = self._at(self._node, local)
                send[counterpart] += self._size(source, counterpart, backward=backward)
                source = self._at(node, local)
                receive[counterpart] += self._size(source, self._rank, backward=backward)
        self._flight = self._begin(flat, send, receive, ACROSS, way)

    def _inside(
        self, parts: Sequence[Tensor], way: str, *, backward: bool
    ) -> tuple[dict[int, list[Tensor]], list[list[Tensor]]]:
        """Exchange parts within the node.

        Returns:
            For each other local rank, what it has for the own local rank of each node; and what
            this rank has itself for the own local rank of each node, flat.
        """
        by_target = self._by_target(parts, backward=backward)
        others = [local for local in range(self._width) if local != self._local]
        send, receive = [0] * (self._nodes * self._width), [0] * (self._nodes * self._width)
        arriving: dict[int, list[int]] = {}
        for local in others:
            peer = self._at(self._node, local)
            nodes = range(self._nodes)
            outgoing = [self._at(node, local) for node in nodes]
            incoming = [self._at(node, self._local) for node in nodes]
            send[peer] = sum(self._size(self._rank, rank, backward=backward) for rank in outgoing)
            arriving[local] = [self._size(peer, rank, backward=backward) for rank in incoming]
            receive[peer] = sum(arriving[local])
        buffer = [
            part
            for local in others
            for node in range(self._nodes)
            for part in by_target[self._at(node, local)]
        ]
        flat = packed(buffer or [parts[0].reshape(-1)[:0]])
        flight, _sent, out = self._begin(flat, send, receive, INSIDE, way)
        flight.wait()
        pieces = iter(out.split([size for local in others for size in arriving[local]]))
        relayed = {local: [next(pieces) for _ in range(self._nodes)] for local in others}
        direct = [by_target[self._at(node, self._local)] for node in range(self._nodes)]
        return relayed, [[part.reshape(-1) for part in of_node] for of_node in direct]

    def _by_target(self, parts: Sequence[Tensor], *, backward: bool) -> list[list[Tensor]]:
        """Return the parts for each rank that are not empty."""
        shapes = self.received if backward else self.sent
        together = len(shapes) // (self._nodes * self._width)
        targets: list[list[Tensor]] = [[] for _ in range(self._nodes * self._width)]
        remaining = iter(parts)
        for index, shape in enumerate(shapes):
            if prod(shape):
                targets[index // together].append(next(remaining))
        return targets

    def _at(self, node: int, local: int) -> int:
        return node * self._width + local

    def _size(self, source: int, target: int, *, backward: bool = False) -> int:
        """Return the elements that a rank sends to another; gradients go the other way."""
        if source == target:
            return 0
        return self._sizes(target, source) if backward else self._sizes(source, target)
