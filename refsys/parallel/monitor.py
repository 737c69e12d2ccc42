"""Monitor of the ranks of a run: a failed operation becomes one error that names missing ranks.

The monitor of a rank is a thread that looks for the claim of a failure in the store of the run.
The first rank whose operation fails makes the claim. The others then answer with their progress:
the operations that they have begun in each group, and the phase that they are in. A rank that does
not answer, or has not begun the operation, is missing. All ranks raise the same error.
"""

import atexit
import json
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any, NamedTuple, cast

import torch.distributed as dist

from refsys.errors import ArgumentError, DivergedError, RankError, RefsysError, one_line
from refsys.parallel import flight_recorder
from refsys.parallel.agreement import Agreement, named
from refsys.parallel.ledger import LEDGER, Ledger, TrafficKey

# Time between two looks at the store, and the time within which every rank answers.
POLL_S, GRACE_S = 0.5, 5.0
_PAUSE_S = 0.05
# Operations of an accelerator that may be incomplete at a time.
_QUEUED = 256
_LONGEST_CAUSE = 160
# Words of the errors of gloo, NCCL and the store, which are plain RuntimeErrors.
_WORDS = ("gloo", "NCCL", "closed by peer", "timed out", "Timed out", "reset by peer")


class Operation(NamedTuple):
    """Collective operation that a rank has begun.

    Attributes:
        key: Its origin.
        group: Its ranks; all if None.
        number: Its number among those of the group, from 1.
        begun: Moment at which it was begun, by the monotonic clock.
    """

    key: TrafficKey
    group: dist.ProcessGroup | None
    number: int
    begun: float


class RankMonitor:
    """Monitor of one rank.

    Attributes:
        world: Process group of all ranks.
        rank: Number of this rank.
        ranks: Number of ranks.
        timeout_s: Longest wait for another rank.
        verdict: Reason for which the run has failed; empty while it has not.
    """

    def __init__(
        self, store: dist.Store, timeout_s: float, *, holder: str, ledger: Ledger = LEDGER
    ) -> None:
        """Start the thread.

        Args:
            store: Store of the run.
            timeout_s: See the attributes.
            holder: Holder of the store, in words.
            ledger: Counters, which know the phase.
        """
        self.world = dist.group.WORLD
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()
        self.timeout_s, self.verdict = timeout_s, ""
        self._shared_store, self._agreements = store, count()
        # A connection of its own, since another one may be blocked.
        self._store = dist.PrefixStore("monitor", cast(Any, store).clone())
        self._holder, self._ledger = holder, ledger
        self._backend = dist.get_backend()
        self._begun: Counter[str] = Counter()
        self._last: Operation | None = None
        self._queued: deque[tuple[Any, Operation]] = deque(maxlen=_QUEUED)
        self._settling = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rank monitor", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        atexit.unregister(self.close)

    def agreement(self, ranks: Sequence[int]) -> Agreement:
        """Return an agreement of some ranks, which all create theirs in one order."""
        return Agreement(
            self._shared_store,
            self.rank,
            ranks,
            name=f"{next(self._agreements)} of {min(ranks)}",
            timeout_s=self.timeout_s,
            failure=lambda: self.verdict,
        )

    def begin(
        self, key: TrafficKey, group: dist.ProcessGroup | None, queued: dist.Work | None = None
    ) -> Operation:
        """Note an operation that is begun.

        Args:
            key: Its origin.
            group: Its ranks; all if None.
            queued: Its handle if the host does not wait for it, on an accelerator.
        """
        name = _name(group)
        self._begun[name] += 1
        operation = Operation(key, group, self._begun[name], time.monotonic())
        self._last = operation
        if queued is not None:
            self._queued.append((queued, operation))
        return operation

    def failure(self, operation: Operation, error: BaseException | None) -> RankError:
        """Return the error of all ranks for an operation that failed on this one.

        Args:
            operation: The operation.
            error: Error of the backend; None where the operation takes too long.
        """
        # Two threads of this rank may find out at once.
        with self._settling:
            if not self.verdict:
                self.verdict = self._settle(lambda: self._explain(operation, error), operation)
            self._leave_together()
        return RankError(self.verdict)

    def report(self, error: BaseException) -> None:
        """Tell the other ranks of an error that ends this one, as the reason for their failure."""
        text = str(error) if isinstance(error, RefsysError) else f"{type(error).__name__}: {error}"
        with self._settling:
            if not self.verdict:
                self.verdict = self._settle(lambda: self._told(text), None)
            self._leave_together()

    def failed_last(self, error: RuntimeError) -> RankError | None:
        """Return the error of all ranks if a backend's error is of the last operation."""
        known = isinstance(error, dist.DistError) or any(word in str(error) for word in _WORDS)
        return self.failure(self._last, error) if known and self._last is not None else None

    def _settle(self, explain: Callable[[], str], operation: Operation | None) -> str:
        """Claim the failure and explain it, or return the explanation of the rank that did."""
        own = str(self.rank)
        try:
            if self._store.compare_set("claim", "", own).decode() == own:
                verdict = explain()
                self._store.set("verdict", verdict)
                return verdict
            if self._poll(["verdict"], 2 * GRACE_S):
                return self._store.get("verdict").decode()
            claimant = self._store.get("claim").decode()
            reason = f"rank {claimant} is missing: it failed and did not say why"
        except dist.DistError:
            if self.verdict:
                # The thread read it before the holder of the store ended.
                return self.verdict
            reason = f"{self._holder} is missing: it held the run's store"
        return f"{_subject(operation.key)}: {reason}" if operation else reason

    def _explain(self, operation: Operation, error: BaseException | None) -> str:
        """Return the error of all ranks; they answer meanwhile."""
        members = _members(operation.group, self.ranks)
        self._poll([f"answer/{rank}" for rank in self._others()])
        silent = [rank for rank in self._others() if not self._has_answered(rank)]
        missing = [rank for rank in silent if rank in members]
        reason = f"{named(missing)} missing, without a sign of life" if missing else ""
        if not missing:
            name = _name(operation.group)
            behind = {
                rank: answer
                for rank in members
                if rank != self.rank
                and (answer := self._answer_of(rank))["begun"].get(name, 0) < operation.number
            }
            if behind:
                where = ", ".join(f"rank {r} {answer['where']}" for r, answer in behind.items())
                reason = f"{named(list(behind))} missing: {where}"
            elif silent:
                reason = f"{named(silent)} missing, without a sign of life"
            else:
                reason = "all ranks began it"
        seconds = time.monotonic() - operation.begun
        path = flight_recorder.dump(self.rank, self._backend)
        text = f"{_subject(operation.key)} failed after {seconds:.1f} s: {reason}"
        text += f"; {_cause(error)}" if error else ""
        text += f"; flight recorder: {path}" if path else ""
        return one_line(text)

    def _leave_together(self) -> None:
        """Wait until all ranks that answered know the verdict: this one may hold the store.

        On a loaded machine a rank may take long between its answer and the verdict.
        """
        with suppress(dist.DistError):
            # This rank may end before its thread says so.
            self._store.set(f"read/{self.rank}", "")
            answered = [rank for rank in self._others() if self._has_answered(rank)]
            self._poll([f"read/{rank}" for rank in answered], 4 * GRACE_S)

    def _told(self, text: str) -> str:
        self._poll([f"answer/{rank}" for rank in self._others()])
        return one_line(f"rank {self.rank} failed: {text}")

    def _watch(self) -> None:
        """Look for a claim, answer it, and end this process if it does not end by itself."""
        try:
            while not self._stop.wait(POLL_S):
                if self._store.check(["claim"]):
                    break
                self._check_queued()
            else:
                return
            self._store.set(f"answer/{self.rank}", json.dumps(self._progress()))
            flight_recorder.dump(self.rank, self._backend)
            if self._poll(["verdict"], 2 * GRACE_S):
                self.verdict = self._store.get("verdict").decode()
                self._store.set(f"read/{self.rank}", "")
        except dist.DistError:
            self.verdict = self.verdict or f"{self._holder} is missing: it held the run's store"
        while not self._stop.wait(self.timeout_s) and dist.group.WORLD is self.world:
            # A rank that still waits for the others to read the verdict ends by itself.
            if not self._settling.locked():
                self._end(self.verdict)

    def _check_queued(self) -> None:
        """End this process if an accelerator has not completed an operation in time.

        Its host may be blocked where no exception reaches it.
        """
        oldest = time.monotonic() - self.timeout_s
        while self._queued and self._queued[0][1].begun < oldest:
            work, operation = self._queued[0]
            if not work.is_completed():
                self._end(str(self.failure(operation, None)))
                return
            self._queued.popleft()

    def _end(self, reason: str) -> None:
        print(f"foldperf: {reason}", file=sys.stderr, flush=True)
        os._exit(1)

    def _progress(self) -> dict[str, Any]:
        """Return the operations begun in each group, and this rank's position in words."""
        phase = self._ledger.phase
        where = f"is in phase {phase}" if phase else "is outside of the phases of a step"
        last = f", last began {_subject(self._last.key)}" if self._last else ""
        return {"begun": self._begun, "where": where + last}

    def _others(self) -> list[int]:
        return [rank for rank in range(self.ranks) if rank != self.rank]

    def _has_answered(self, rank: int) -> bool:
        return self._store.check([f"answer/{rank}"])

    def _answer_of(self, rank: int) -> dict[str, Any]:
        if not self._has_answered(rank):
            return {"begun": {}, "where": "does not answer"}
        return dict(json.loads(self._store.get(f"answer/{rank}")))

    def _poll(self, keys: list[str], seconds: float = GRACE_S) -> bool:
        """Wait for keys; return whether all are there."""
        deadline = time.monotonic() + seconds
        while keys and not self._store.check(keys):
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
        return True


_current: list[RankMonitor] = []


def current() -> RankMonitor | None:
    """Return the monitor of this process; None with one rank."""
    return _current[-1] if _current else None


def install(monitor: RankMonitor) -> None:
    """Make a monitor that of this process, in place of an earlier one."""
    uninstall()
    _current.append(monitor)


def uninstall() -> None:
    """End the monitor of this process, if there is one."""
    while _current:
        _current.pop().close()


@contextmanager
def watching(key: TrafficKey, group: dist.ProcessGroup | None) -> Iterator[None]:
    """Raise the error of all ranks if an operation that the block runs fails.

    Raises:
        RankError: the operation failed.
    """
    monitor = current()
    if monitor is None:
        yield
        return
    operation = monitor.begin(key, group)
    try:
        yield
    except RuntimeError as error:
        raise monitor.failure(operation, error) from error


@contextmanager
def explained() -> Iterator[None]:
    """Raise the error of all ranks in place of a backend's that leaves the block.

    FSDP2, for example, waits itself for the operations that it began.

    Raises:
        RankError: an operation failed.
    """
    try:
        yield
    except RuntimeError as error:
        monitor = current()
        if monitor is not None and (failure := monitor.failed_last(error)):
            raise failure from error
        raise


@contextmanager
def reporting() -> Iterator[None]:
    """Tell the other ranks of an error that leaves the block."""
    try:
        yield
    except BaseException as error:
        monitor = current()
        # Every rank raises these.
        common = isinstance(error, RankError | ArgumentError | DivergedError)
        if monitor is not None and not common:
            with suppress(RuntimeError):
                monitor.report(error)
        raise


def _subject(key: TrafficKey) -> str:
    phase = f", phase {key.phase}" if key.phase else ""
    return f"{key.kind} of {key.operator} ({key.direction}{phase})"


def _name(group: dist.ProcessGroup | None) -> str:
    return "all" if group is None else str(group.group_name)


def _members(group: dist.ProcessGroup | None, ranks: int) -> list[int]:
    return list(range(ranks)) if group is None else dist.get_process_group_ranks(group)


def _cause(error: BaseException) -> str:
    """Return the backend's error without the place in its source and its advice."""
    text = str(error)
    if text.startswith("["):
        text = text.partition("] ")[2] or text
    return text.partition(". ")[0][:_LONGEST_CAUSE]
