"""Verdict on a case that has ended: its status, and its result or the reason for having none."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.records.record import CaseResult, Status
from bench.run.isolation import Ended
from bench.run.ranks import merged
from bench.run.time_limits import TimeLimit

_PARTS = frozenset({"metrics", "telemetry", "facts", "outcome", "breakdown", "notes"})


def verdict(
    ended: Ended,
    paths: Sequence[Path],
    limit: TimeLimit,
    memory_limit_bytes: int,
    domains: Sequence[object],
) -> CaseResult:
    """Return the merged result of a case's ranks, or status and reason alone.

    Args:
        ended: End of the case process.
        paths: File of each rank's result, in order.
        limit: Time limit that the case ran under.
        memory_limit_bytes: Most resident memory of the case. Unit: B.
        domains: What each rank's energy counter counts, see `bench.run.ranks.merged`.
    """
    result = _verdict_of_ranks(ended, paths, limit, memory_limit_bytes, domains)
    if result.status == "crash" and ended.memory_kill:
        # The kernel killed a rank or a process that a rank waits for, which explains the crash.
        return CaseResult(status="oom", reason=f"{ended.memory_kill} ({result.reason})")
    return result


def _verdict_of_ranks(
    ended: Ended,
    paths: Sequence[Path],
    limit: TimeLimit,
    memory_limit_bytes: int,
    domains: Sequence[object],
) -> CaseResult:
    status, reason = _stopped(ended, limit, memory_limit_bytes)
    if ended.cause:
        return CaseResult(status=status, reason=reason)
    results = [_read_result(path) for path in paths]
    failures = [
        (path.stat().st_mtime_ns, rank, result)
        for rank, (path, result) in enumerate(zip(paths, results, strict=True))
        if isinstance(result, CaseResult) and result.status != "ok"
    ]
    if failures and (not reason or len(paths) > 1):
        # The other ranks fail because they lost the first one, and the launcher ended them.
        _, rank, result = min(failures, key=lambda failure: failure[:2])
        who = f"rank {rank}: " if len(paths) > 1 else ""
        return replace(result, reason=f"{who}{result.reason}")
    if not reason:
        valid = [result for result in results if isinstance(result, CaseResult)]
        if len(valid) == len(results):
            return merged(valid, domains)
        reason = next(fault for fault in results if isinstance(fault, str))
    last = ended.last_line()
    if status == "crash" and last:
        reason = f"{reason}; it last said: {last}"
    return CaseResult(status=status, reason=reason)


def _read_result(path: Path) -> CaseResult | str:
    """Return a rank's result, or the fault of its file in words."""
    try:
        table = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        return "ended without a result"
    except ValueError:
        return "its result is not JSON"
    try:
        return _parse_result(table)
    except (ValueError, TypeError):
        return "its result is not of the expected form"


def _parse_result(table: Any) -> CaseResult:
    """Return the result in a JSON object.

    Raises:
        ValueError: A part is missing or of another type.
        TypeError: The value is not an object.
    """
    result = CaseResult.from_dict(table)
    if result.status != "ok":
        if not result.reason:
            raise ValueError("a failure has no reason")
        return CaseResult(status=result.status, reason=result.reason)
    if result.facts is None or not table.keys() >= _PARTS or "step_time_s" not in result.metrics:
        raise ValueError("a part is missing")
    return result


def _stopped(ended: Ended, limit: TimeLimit, memory_limit_bytes: int) -> tuple[Status, str]:
    """Return status and reason of a case that did not end in good order; no reason if it did."""
    if ended.cause == "timeout":
        return "timeout", f"no result within {limit}"
    if ended.cause == "memory":
        gib, most = ended.peak_resident_bytes / 2**30, memory_limit_bytes / 2**30
        return "oom", f"resident memory of {gib:.2f} GiB exceeded the limit of {most:g} GiB"
    if ended.status < 0:
        return "crash", f"killed by {ended.signal_name()}"
    return "crash", f"ended with status {ended.status}" if ended.status else ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
