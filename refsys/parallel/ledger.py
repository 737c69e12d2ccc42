"""Counters of the communication of a rank, by operator, phase and direction."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple


class TrafficKey(NamedTuple):
    """Origin of collective operations.

    Attributes:
        operator: Operator of the model that communicates, or ``gradients``.
        phase: Phase of the step; empty outside of a trainer.
        direction: ``forward`` or ``backward``.
        kind: Kind of collective operation.
    """

    operator: str
    phase: str
    direction: str
    kind: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """Communication of one rank.

    Attributes:
        calls: Collective operations.
        nbytes: Bytes that this rank sent: to other ranks in an exchange, of the tensor in a
            reduction.
        messages: Other ranks that a part was sent to, over all exchanges.
        waited: Seconds that the host waited for operations to complete.
    """

    calls: int = 0
    nbytes: int = 0
    messages: int = 0
    waited: float = 0.0

    def __add__(self, other: "Traffic") -> "Traffic":
        """Return the sum of both."""
        return Traffic(
            self.calls + other.calls,
            self.nbytes + other.nbytes,
            self.messages + other.messages,
            self.waited + other.waited,
        )

    def since(self, before: "Traffic") -> "Traffic":
        """Return the difference from an earlier reading."""
        return Traffic(
            self.calls - before.calls,
            self.nbytes - before.nbytes,
            self.messages - before.messages,
            self.waited - before.waited,
        )


class Counted(NamedTuple):
    """Operation that a ledger has counted, and that starts next."""

    operator: str
    direction: str
    kind: str
    nbytes: int
    messages: int


class Ledger:
    """Counters of the collective operations of one rank."""

    # The operation that was counted last, by any ledger, until a tracer has seen it.
    _latest: ClassVar["Counted | None"] = None

    def __init__(self) -> None:
        self._entries: defaultdict[TrafficKey, Traffic] = defaultdict(Traffic)
        self._phase = ""

    @property
    def phase(self) -> str:
        """Phase that operations are counted under; empty outside of a trainer."""
        return self._phase

    def count(
        self, operator: str, direction: str, kind: str, nbytes: int, messages: int = 0
    ) -> TrafficKey:
        """Count one operation and return its origin."""
        key = TrafficKey(operator, self._phase, direction, kind)
        self._entries[key] += Traffic(1, nbytes, messages)
        Ledger._latest = Counted(operator, direction, kind, nbytes, messages)
        return key

    @staticmethod
    def take_latest() -> "Counted | None":
        """Return the operation that was counted last; None if it was returned before."""
        latest, Ledger._latest = Ledger._latest, None
        return latest

    def wait(self, key: TrafficKey, seconds: float) -> None:
        """Add the time that the host waited for an operation."""
        self._entries[key] += Traffic(waited=seconds)

    def total(self) -> Traffic:
        """Return the sum over all origins."""
        return sum(self._entries.values(), Traffic())

    def entries(self) -> dict[TrafficKey, Traffic]:
        """Return the counters by origin."""
        return dict(self._entries)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count what is called inside the block under a phase of the step."""
        before, self._phase = self._phase, phase
        try:
            yield
        finally:
            self._phase = before


# The counters of this process.
LEDGER = Ledger()
