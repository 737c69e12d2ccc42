"""Choice of how ranks divide an example, by the predicted time of a Pairformer block's pair ops.

Candidates: one rank alone; a row slab with plain or hierarchical exchanges; and, with more ranks
than channels, groups of ranks that divide each channel's product (`channel_groups`). A candidate's
time is that of the slowest rank, without any overlap of communication and computation:

    computation    launches × overhead + max(FLOPs / rate, bytes / bandwidth)
    communication  Σ over exchanges of messages × latency + bytes / bandwidth, of each kind of link

FLOPs of a block (two triangle multiplications, two triangle attentions, a transition of factor 4):
68 N² c² + 12 N³ c, of which 4 N³ c are the products of the multiplications. Bytes: 50 N² c e, each
tensor of the size of the pairs that fused operators read or write counted once: 11 in a
multiplication (z; a, b, gate; a, b; x; x, gate, z; z), 13 in an attention (z; q, k, v, gate twice;
o twice; z; z) and 2 in a transition. Exchanges forward: in each multiplication both operands
together and the result, in the attention of ending nodes two swaps of axes, in each attention the
biases of all rows. A training step computes a block forward twice, the second time in backward,
and backward with twice the FLOPs and bytes, and exchanges as much in each of these three passes.

Traffic is taken to be spread evenly over the other ranks. Nothing here is fitted to measurements:
rates and links are arguments, and their defaults are stated figures of an H100.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from refsys.errors import ArgumentError
from refsys.parallel.channel_groups import BlockGrid
from refsys.parallel.links import NVLINK, Links

SERIAL, PLAIN, HIERARCHICAL = "serial", "plain", "hierarchical"
# Launches of a pair block with fused operators, and of copies to and from buffers of an exchange.
_LAUNCHES, _LAUNCHES_PER_EXCHANGE = 16, 4
_PASSES = 50
_EXCHANGES = 8
_LONGEST = 2**20


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of a device.

    Attributes:
        flops_s: Floating-point operations per second in matrix products.
        bytes_s: Bytes per second of device memory.
        launch_s: Seconds between the starts of two kernels.
    """

    flops_s: float
    bytes_s: float
    launch_s: float


# H100 SXM: dense bfloat16 and HBM3 as stated by the manufacturer; the overhead is an assumption.
H100 = Rates(989e12, 3.35e12, 5e-6)


@dataclass(frozen=True, slots=True)
class PairShape:
    """Pair representation.

    Attributes:
        channels: c.
        heads: Heads of triangle attention.
        itemsize: Bytes of an element.
    """

    channels: int = 128
    heads: int = 4
    itemsize: int = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to divide an example, and its predicted time for a pair block.

    Attributes:
        exchange: ``serial``, ``plain`` or ``hierarchical``.
        grid: Groups of ranks that divide the product of each channel.
        computation_s: Seconds of computation of the slowest rank.
        communication_s: Seconds of its exchanges.
    """

    exchange: str
    grid: BlockGrid
    computation_s: float
    communication_s: float

    @property
    def seconds(self) -> float:
        """Predicted time."""
        return self.computation_s + self.communication_s

    @property
    def name(self) -> str:
        """Name of the candidate."""
        if self.grid.groups == 1:
            return self.exchange
        return f"{self.exchange}, channel groups {self.grid.rows} x {self.grid.columns}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Chosen candidate among all.

    Attributes:
        best: Candidate with the shortest predicted time.
        candidates: All candidates, the fastest first.
        reason: Sentence that says what the choice rests on.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]
    reason: str

    @property
    def divided(self) -> Candidate:
        """Fastest candidate on all ranks: a run cannot change their number."""
        return next(c for c in self.candidates if c.exchange != SERIAL)


def choose(
    tokens: int,
    ranks: int,
    ranks_per_node: int,
    links: Links = NVLINK,
    *,
    rates: Rates = H100,
    shape: PairShape = PairShape(),
    training: bool = False,
) -> Schedule:
    """Return the fastest way to divide an example among ranks.

    Args:
        tokens: N.
        ranks: P, two at least.
        ranks_per_node: Ranks of a node; hierarchical exchanges need whole nodes.
        links: Links between the ranks.
        rates: Rates of each rank's device.
        shape: Pair representation.
        training: Whether gradients are computed, with checkpointing.

    Raises:
        ArgumentError: a number is too small, or there are fewer tokens than ranks.
    """
    if ranks < 2 or ranks_per_node < 1:
        raise ArgumentError(
            f"ranks={ranks} with {ranks_per_node} in a node are nothing to divide among; state "
            "two ranks at least, and one in a node"
        )
    if tokens < ranks:
        raise ArgumentError(f"{tokens} tokens are too few for {ranks} ranks")
    model = _Model(tokens, ranks, min(ranks, ranks_per_node), links, rates, shape, training)
    candidates = [Candidate(SERIAL, BlockGrid(), model.serial(), 0.0)]
    for grid in grids(ranks, shape.channels):
        computation = model.computation(grid)
        for exchange in model.exchanges():
            communication = model.communication(exchange, grid)
            candidates.append(Candidate(exchange, grid, computation, communication))
    # Of equal times, the first one: the plainest.
    candidates.sort(key=lambda candidate: candidate.seconds)
    return Schedule(candidates[0], tuple(candidates), _reason(candidates, model))


def break_even_tokens(
    ranks: int,
    ranks_per_node: int,
    links: Links = NVLINK,
    *,
    rates: Rates = H100,
    shape: PairShape = PairShape(),
    training: bool = False,
) -> int | None:
    """Return the fewest tokens from which on ranks are predicted to be faster than one.

    Returns:
        Tokens; None if one rank is faster even with 2²⁰.
    """

    def pays(tokens: int) -> bool:
        schedule = choose(
            tokens, ranks, ranks_per_node, links, rates=rates, shape=shape, training=training
        )
        return schedule.best.exchange != SERIAL

    low, high = ranks - 1, ranks
    while not pays(high):
        if high > _LONGEST:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if pays(middle) else (middle, high)
    return high


def grids(ranks: int, channels: int) -> tuple[BlockGrid, ...]:
    """Return the grids of groups worth a comparison: 1 x 1 alone if there are enough channels.

    With more ranks, those of divisors of the ranks, rows and columns as equal as possible: the
    volume grows with their sum. In the largest groups a rank has several channels.
    """
    if ranks <= channels:
        return (BlockGrid(),)
    most = 8 * ceil(ranks / channels)
    return tuple(
        squarest(groups) for groups in range(1, min(ranks, most) + 1) if ranks % groups == 0
    )


def squarest(groups: int) -> BlockGrid:
    """Return the grid of so many groups with the most equal rows and columns."""
    rows = max(n for n in range(1, int(groups**0.5) + 1) if groups % n == 0)
    return BlockGrid(rows, groups // rows)


@dataclass(frozen=True, slots=True)
class _Model:
    """Time of a pair block; see the docstring of the module."""

    tokens: int
    ranks: int
    node: int
    links: Links
    rates: Rates
    shape: PairShape
    training: bool

    @property
    def whole_nodes(self) -> bool:
        return self.node < self.ranks and self.ranks % self.node == 0

    def exchanges(self) -> Iterator[str]:
        yield PLAIN
        if self.whole_nodes and self.node > 1:
            yield HIERARCHICAL

    def serial(self) -> float:
        n, c = self.tokens, self.shape.channels
        return self._device(68 * n**2 * c**2 + 12 * n**3 * c, self._pairs(n * n), _LAUNCHES)

    def computation(self, grid: BlockGrid) -> float:
        """Return the seconds of the rank with the most rows and the largest share of products."""
        n, c = self.tokens, self.shape.channels
        rows = ceil(n / self.ranks)
        width, block_rows, block_columns = self._block(grid)
        flops = 68 * rows * n * c**2 + 8 * rows * n**2 * c
        products = 4 * n * width * block_rows * block_columns
        launches = _LAUNCHES + _EXCHANGES * _LAUNCHES_PER_EXCHANGE
        return self._device(flops + products, self._pairs(rows * n), launches)

    def communication(self, exchange: str, grid: BlockGrid) -> float:
        """Return the seconds of the exchanges of the busiest rank."""
        n, c, item = self.tokens, self.shape.channels, self.shape.itemsize
        unit = ceil(n / self.ranks) * n * c * item
        width, rows, columns = self._block(grid)
        kept = (self.ranks - 1) / self.ranks
        operands = max((grid.rows + grid.columns) * unit, n * (rows + columns) * width * item)
        result = max(unit, rows * columns * width * item)
        relayed = [operands, result] * 2 + [unit] * 2
        bias = (self.ranks - 1) * unit * self.shape.heads / c
        seconds = sum(self._exchange(exchange, size * kept) for size in relayed)
        return self._passes * (seconds + 2 * self._exchange(PLAIN, bias))

    def _exchange(self, kind: str, nbytes: float) -> float:
        """Return the seconds of an exchange in which a rank sends so many bytes to others."""
        g, others = self.node, self.ranks - 1
        if kind == PLAIN:
            inside, across = (g - 1), others - (g - 1)
            return self._sent(inside, nbytes * inside / others, across, nbytes * across / others)
        nodes, part = self.ranks // g, nbytes / others
        staged = self._sent(g - 1, (g - 1) * nodes * part, nodes - 1, (nodes - 1) * g * part)
        # Parts of stage 1 are copied to the buffer of stage 2.
        return staged + 2 * nbytes / self.rates.bytes_s + 2 * self.rates.launch_s

    def _sent(self, inside: int, bytes_inside: float, across: int, bytes_across: float) -> float:
        links = self.links
        return (
            inside * links.intra_latency_s
            + bytes_inside / links.intra_bytes_s
            + across * links.inter_latency_s
            + bytes_across / links.inter_bytes_s
        )

    def _block(self, grid: BlockGrid) -> tuple[int, int, int]:
        """Return the channels, rows and columns of the largest block of a rank."""
        width = ceil(self.shape.channels / (self.ranks // grid.groups))
        return width, ceil(self.tokens / grid.rows), ceil(self.tokens / grid.columns)

    def _pairs(self, positions: int) -> float:
        return _PASSES * positions * self.shape.channels * self.shape.itemsize

    def _device(self, flops: float, nbytes: float, launches: int) -> float:
        rates = self.rates
        once = launches * rates.launch_s + max(flops / rates.flops_s, nbytes / rates.bytes_s)
        # Forward, forward again, and backward with twice the work.
        return once * (4 if self.training else 1)

    @property
    def _passes(self) -> int:
        return 3 if self.training else 1


def _reason(candidates: list[Candidate], model: _Model) -> str:
    """Return a sentence about the fastest candidate and the next one."""
    best, other = candidates[:2]
    times = f"{best.seconds * 1e3:.3g} ms against {other.seconds * 1e3:.3g} ms ({other.name})"
    if best.exchange == SERIAL:
        return (
            f"one rank is faster with {model.tokens} tokens: {times}, of which "
            f"{other.communication_s * 1e3:.3g} ms are exchanges"
        )
    parts = []
    if best.exchange == HIERARCHICAL:
        nodes = model.ranks // model.node
        parts.append(
            f"{nodes - 1} messages across nodes in an exchange in place of "
            f"{model.ranks - model.node}"
        )
    if best.grid.groups > 1:
        parts.append(f"{model.ranks} ranks are more than {model.shape.channels} channels")
    because = f" ({'; '.join(parts)})" if parts else ""
    return f"{best.name}{because}: {times} a pair block"
