"""Verdict on a case that has ended: its status, and its result or the reason for having none."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.records.metrics import METRIC_FIELDS
from bench.records.record import STATUSES
from bench.run.isolation import Ended
from bench.run.ranks import merged
from bench.run.time_limits import TimeLimit
from workloads.workload import Facts

_PARTS = ("metrics", "telemetry", "facts", "outcome", "breakdown", "notes")
_FACTS = {field.name for field in fields(Facts)}


def verdict(
    ended: Ended,
    paths: Sequence[Path],
    limit: TimeLimit,
    memory_limit_bytes: int,
    domains: Sequence[object],
) -> dict[str, Any]:
    """Return the merged result of a case's ranks, or status and reason alone.

    Args:
        ended: End of the case process.
        paths: File of each rank's result, in order.
        limit: Time limit that the case ran under.
        memory_limit_bytes: Most resident memory of the case. Unit: B.
        domains: What each rank's energy counter counts, see `bench.run.ranks.merged`.
    """
    result = _verdict_of_ranks(ended, paths, limit, memory_limit_bytes, domains)
    if result["status"] == "crash" and ended.memory_kill:
        # A rank, or a process that it waits for: whatever came of that came of the kill.
        return {"status": "oom", "reason": f"{ended.memory_kill} ({result['reason']})"}
    return result


def _verdict_of_ranks(
    ended: Ended,
    paths: Sequence[Path],
    limit: TimeLimit,
    memory_limit_bytes: int,
    domains: Sequence[object],
) -> dict[str, Any]:
    status, reason = _stopped(ended, limit, memory_limit_bytes)
    if ended.cause:
        return {"status": status, "reason": reason}
    found = [_read_result(path) for path in paths]
    failed = [
        (path.stat().st_mtime_ns, rank, result)
        for rank, (path, result) in enumerate(zip(paths, found, strict=True))
        if isinstance(result, dict) and result["status"] != "ok"
    ]
    if failed and (not reason or len(paths) > 1):
        # The first to fail is why the others then lost it, and the launcher ended them.
        _, rank, result = min(failed, key=lambda each: each[:2])
        who = f"rank {rank}: " if len(paths) > 1 else ""
        return {"status": result["status"], "reason": who + result["reason"]}
    if not reason:
        results = [result for result in found if isinstance(result, dict)]
        if len(results) == len(found):
            return merged(results, domains)
        reason = next(text for text in found if isinstance(text, str))
    last = ended.last_line()
    if status == "crash" and last:
        reason = f"{reason}; it last said: {last}"
    return {"status": status, "reason": reason}


def _read_result(path: Path) -> dict[str, Any] | str:
    """Return a rank's result, or the fault of its file in words."""
    try:
        result = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        return "ended without a result"
    except ValueError:
        return "its result is not JSON"
    return result if _is_result(result) else "its result is not of the expected form"


def _stopped(ended: Ended, limit: TimeLimit, memory_limit_bytes: int) -> tuple[str, str]:
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


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or result.get("status") not in STATUSES:
        return False
    if result["status"] != "ok":
        return isinstance(result.get("reason"), str) and bool(result["reason"])
    if not all(isinstance(result.get(part), dict) for part in _PARTS):
        return False
    metrics = result["metrics"]
    return (
        result["facts"].keys() == _FACTS
        and "step_time_s" in metrics
        and all(
            isinstance(value, dict) and value.keys() == METRIC_FIELDS for value in metrics.values()
        )
    )
