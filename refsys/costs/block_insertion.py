"""Insertion of the events of blocks that were not traced into a timeline.

See `refsys.costs.repeated_blocks`. A release belongs to the block's own forward or backward pass,
to the output of the previous block or to the gradient of the next one; anything else is an
`UnequalBlocksError`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import nn

from refsys.costs.storages import Timeline

# Positions of the traced blocks in a stack: first, second, last but one, last, end.
SECOND, SECOND_LAST, POSITIONS = 1, 2, 5


class UnequalBlocksError(Exception):
    """Blocks of a stack that were taken for equal differ."""


@dataclass(slots=True)
class TracedStack:
    """One pass through a stack, four blocks of which are traced: 0, 1, n - 2, n - 1.

    Attributes:
        blocks: All of its blocks.
        forward: Events before each traced block, and at the end.
        backward: Events before the backward pass of each traced block that was reached.
        gradients: Storage of a gradient of a block left out, by the block's index and the storage
            of that gradient in block 1 or n - 2.
    """

    blocks: Sequence[nn.Module]
    forward: list[int] = field(default_factory=list)
    backward: dict[int, int] = field(default_factory=dict)
    gradients: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def left_out(self) -> int:
        """Return the number of blocks that are not traced."""
        return len(self.blocks) - 4


def insert_blocks(timeline: Timeline, stacks: Iterable[TracedStack]) -> Timeline:
    """Return the timeline with the events of the blocks left out of each stack.

    Raises:
        UnequalBlocksError: blocks that were taken for equal differ.
    """
    inserted: dict[int, list[int]] = {}
    replaced: dict[int, int] = {}
    for stack in stacks:
        _Insertion(timeline, stack).apply(inserted, replaced)
    if not inserted:
        return timeline
    events: list[int] = []
    phases: list[tuple[int, str]] = []
    starts = list(timeline.phases)
    for position in range(len(timeline.events) + 1):
        while starts and starts[0][0] == position:
            phases.append((len(events), starts.pop(0)[1]))
        events += inserted.get(position, [])
        if position < len(timeline.events):
            events.append(replaced.get(position, timeline.events[position]))
    return Timeline(timeline.storages, events, phases)


class _Event(NamedTuple):
    """An allocation or a release in a block of a stack, relative to that block.

    Attributes:
        sign: 1 for an allocation, -1 for a release.
        table: Numbers of storages by block and index; see `_Insertion`.
        offset: Block that allocated the storage: 0 itself, -1 the previous one, 1 the next one.
        position: Index of the storage among those of that block.
    """

    sign: int
    table: list[list[int]]
    offset: int
    position: int

    def of(self, block: int) -> int | None:
        """Return the event of a block; None if its neighbour was not compared."""
        block += self.offset
        if not 0 <= block < len(self.table):
            return None
        return self.sign * (self.table[block][self.position] + 1)


class _Insertion:
    """Events of the blocks left out of one stack.

    `forward` and `backward` hold the numbers of the storages that a block allocates in forward and
    in backward, by block and in order. Block 0 of these tables is block 1 of the stack, the last is
    block n - 2, and those between are left out of the trace.
    """

    def __init__(self, timeline: Timeline, stack: TracedStack) -> None:
        self._timeline, self._stack = timeline, stack
        self._last = stack.left_out + 1
        ends, starts = stack.forward, stack.backward
        # Events of blocks 1 and n - 2.
        self._forward = [(ends[i], ends[i + 1]) for i in (SECOND, SECOND_LAST)]
        if starts and not {0, 1, 2} <= starts.keys():
            raise UnequalBlocksError("backward left a stack before it reached its first block")
        self._backward = (
            [(starts[i], starts[i - 1]) for i in (SECOND, SECOND_LAST)] if starts else []
        )
        self._tables = [self._numbers(spans) for spans in (self._forward, self._backward) if spans]
        self._indices = [
            [{number: i for i, number in enumerate(table[block])} for block in (0, -1)]
            for table in self._tables
        ]

    def apply(self, inserted: dict[int, list[int]], replaced: dict[int, int]) -> None:
        """Add what is inserted before an event, and what an event is replaced with."""
        self._check_releases()
        left_out = range(1, self._last)
        self._apply(self._forward, left_out, self._forward[1][0], inserted, replaced)
        if self._backward:
            order = reversed(left_out)
            self._apply(self._backward, order, self._backward[0][0], inserted, replaced)

    def _apply(
        self,
        spans: list[tuple[int, int]],
        order: Iterable[int],
        position: int,
        inserted: dict[int, list[int]],
        replaced: dict[int, int],
    ) -> None:
        pattern = self._pattern(spans)
        events = (event.of(block) for block in order for event in pattern)
        inserted.setdefault(position, []).extend(event for event in events if event is not None)
        for (start, _), block in zip(spans, (0, self._last), strict=True):
            for number, event in enumerate(pattern):
                replacement = event.of(block)
                if replacement is not None:
                    replaced[start + number] = replacement

    def _events(self, span: tuple[int, int]) -> list[int]:
        return self._timeline.events[slice(*span)]

    def _numbers(self, spans: list[tuple[int, int]]) -> list[list[int]]:
        """Return the numbers of storages that each block allocates; copies for those left out."""
        second, second_last = ([e - 1 for e in self._events(span) if e > 0] for span in spans)
        if len(second) != len(second_last):
            raise UnequalBlocksError(f"{len(second)} allocations are {len(second_last)} elsewhere")
        storages = self._timeline.storages
        for one, other in zip(second, second_last, strict=True):
            if storages[one] != storages[other]:
                raise UnequalBlocksError(f"{storages[one]} is {storages[other]} elsewhere")
        pairs = list(zip(second, second_last, strict=True))
        between = [[self._copy(pair, k) for pair in pairs] for k in range(self._last - 1)]
        return [second, *between, second_last]

    def _copy(self, pair: tuple[int, int], index: int) -> int:
        storages = self._timeline.storages
        copy = replace(storages[pair[0]])
        gradients = self._stack.gradients
        gradient = gradients.get((index, pair[0]), gradients.get((index, pair[1])))
        if gradient is not None:
            storages[gradient] = copy
            return gradient
        storages.append(copy)
        return len(storages) - 1

    def _pattern(self, spans: list[tuple[int, int]]) -> list[_Event]:
        """Return the events that blocks 1 and n - 2 have in common."""
        second, second_last = map(self._events, spans)
        if len(second) != len(second_last):
            raise UnequalBlocksError(f"{len(second)} events are {len(second_last)} elsewhere")
        return [self._event(*pair) for pair in zip(second, second_last, strict=True)]

    def _event(self, second: int, second_last: int) -> _Event:
        """Return an event that blocks 1 and n - 2 have in common."""
        sign = 1 if second > 0 else -1
        if second * second_last < 0:
            raise UnequalBlocksError("an allocation is a release elsewhere")
        one, other = abs(second) - 1, abs(second_last) - 1
        for table, (of_second, of_second_last) in zip(self._tables, self._indices, strict=True):
            if one in of_second and of_second[one] == of_second_last.get(other):
                return _Event(sign, table, 0, of_second[one])
            if other in of_second:
                return _Event(sign, table, -1, of_second[other])
            if one in of_second_last:
                return _Event(sign, table, 1, of_second_last[one])
        raise UnequalBlocksError(f"{self._timeline.storages[one]} belongs to no neighbour")

    def _check_releases(self) -> None:
        """Check that what only the compared blocks may release is released nowhere else."""
        spans = [*self._forward, *self._backward]
        compared = {position for span in spans for position in range(*span)}
        # Outputs of block 1 are released by block n - 2, gradients that this computes by block 1.
        private = set(self._tables[0][0])
        if self._backward:
            gradients = {number for _, number in self._stack.gradients}
            pairs = zip(self._tables[1][0], self._tables[1][-1], strict=True)
            private |= {pair[1] for pair in pairs if gradients.isdisjoint(pair)}
        for position, event in enumerate(self._timeline.events):
            if event < 0 and -event - 1 in private and position not in compared:
                storage = self._timeline.storages[-event - 1]
                raise UnequalBlocksError(f"{storage} is released outside of its stack")
