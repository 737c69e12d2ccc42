"""Agreement of ranks on values that their exchanges depend on.

Ranks with different sizes or dtypes do not exchange tensors: they hang, abort or compute nonsense.
So they compare such values first, through the store of the run. No tensor is involved, so that the
operators and the traffic of a step do not depend on it.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch.distributed as dist

from refsys.errors import ArgumentError, RankError

# Pauses between two looks at the store.
_SHORTEST_S, _LONGEST_S = 2e-4, 0.05
_LEAVE_S = 2.0
_DIFFERS, _MISSING = "differs", "missing"


class _Verdict(NamedTuple):
    """Verdict of a round: its kind, and the error if the run cannot go on."""

    kind: str
    text: str


_AGREED = _Verdict("agreed", "")


class Agreement:
    """Rounds in which some ranks compare their values.

    Every rank writes its values; the one that arrives last compares them and writes the verdict.
    Each key is written again in each round.
    """

    def __init__(
        self,
        store: dist.Store,
        rank: int,
        ranks: Sequence[int],
        *,
        name: str,
        timeout_s: float,
        failure: Callable[[], str] = lambda: "",
    ) -> None:
        """Begin with no rounds.

        Args:
            store: Store of the run.
            rank: Number of this rank in the run.
            ranks: Numbers of the ranks that compare, this one among them, in one order on each.
            name: Name under which their keys are, another one for other agreements.
            timeout_s: Longest wait for the other ranks.
            failure: Returns the reason for which the run has failed meanwhile, or nothing.
        """
        self._store = dist.PrefixStore(f"agreement/{name}", store)
        self._rank, self._ranks = rank, tuple(ranks)
        self._timeout_s, self._failure = timeout_s, failure
        self._round = 0
        self._store.compare_set("done", "", "0 agreed ")

    def check(self, subject: str, values: Mapping[str, object]) -> None:
        """Compare values with those of the other ranks.

        Args:
            subject: Subject of the error.
            values: Values by name; they are compared as text.

        Raises:
            ArgumentError: a value differs; every rank raises the same.
            RankError: a rank does not arrive within the timeout.
        """
        self._round += 1
        texts = {name: str(value) for name, value in values.items()}
        try:
            self._store.set(str(self._rank), json.dumps([self._round, texts]))
            if self._store.add("arrived", 1) == self._round * len(self._ranks):
                # Every rank has written, and none goes on before the verdict.
                text = difference({rank: self._read(rank)[1] for rank in self._ranks})
                verdict = _Verdict(_DIFFERS, f"{subject}: {text}") if text else _AGREED
                self._write(verdict)
            else:
                verdict = self._wait(subject)
        except dist.DistError:
            verdict = _Verdict(_MISSING, f"{subject}: a rank is missing: it held the run's store")
        if verdict != _AGREED:
            with suppress(dist.DistError):
                self._leave_together()
        if verdict.kind == _DIFFERS:
            raise ArgumentError(verdict.text)
        if verdict.kind == _MISSING:
            raise RankError(self._failure() or verdict.text)

    def _wait(self, subject: str) -> "_Verdict":
        deadline, pause = time.monotonic() + self._timeout_s, _SHORTEST_S
        while True:
            number, kind, text = self._store.get("done").decode().split(" ", 2)
            if int(number) == self._round:
                return _Verdict(kind, text)
            if reason := self._failure():
                return _Verdict(_MISSING, reason)
            if time.monotonic() > deadline:
                missing = [rank for rank in self._ranks if self._read(rank)[0] != self._round]
                count = len(self._ranks)
                text = (
                    f"{subject}: {named(missing)} missing: {count - len(missing)} of {count} ranks "
                    f"arrived within {self._timeout_s:g} s"
                )
                verdict = _Verdict(_MISSING, text)
                self._write(verdict)
                return verdict
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_S)

    def _write(self, verdict: "_Verdict") -> None:
        self._store.set("done", f"{self._round} {verdict.kind} {verdict.text}")

    def _leave_together(self) -> None:
        """Wait until the ranks that arrived know the verdict: one of them holds the store."""
        self._store.add("left", 1)
        arrived = sum(self._read(rank)[0] == self._round for rank in self._ranks)
        deadline = time.monotonic() + _LEAVE_S
        while self._store.add("left", 0) < arrived and time.monotonic() < deadline:
            time.sleep(_LONGEST_S)

    def _read(self, rank: int) -> tuple[int, dict[str, str]]:
        """Return the last round of a rank and its values; round 0 if it has had none."""
        if not self._store.check([str(rank)]):
            return 0, {}
        number, values = json.loads(self._store.get(str(rank)))
        return int(number), dict(values)


def difference(values: Mapping[int, Mapping[str, str]]) -> str:
    """Return the first value that is not the same on all ranks, in words; empty if there is none.

    Args:
        values: Values by name, of each rank.
    """
    names = {name: None for texts in values.values() for name in texts}
    for name in names:
        ranks: dict[str, list[int]] = {}
        for rank, texts in values.items():
            ranks.setdefault(texts.get(name, "nothing"), []).append(rank)
        if len(ranks) > 1:
            listed = ", ".join(f"{text} on {_numbers(where)}" for text, where in ranks.items())
            return f"{name} differs between ranks: {listed}"
    return ""


def named(ranks: Sequence[int]) -> str:
    """Return ``rank 1 is`` or ``ranks 1 and 2 are``."""
    return f"{_numbers(ranks)} {'is' if len(ranks) == 1 else 'are'}"


def _numbers(ranks: Sequence[int]) -> str:
    *before, last = map(str, ranks)
    return f"ranks {', '.join(before)} and {last}" if before else f"rank {last}"
