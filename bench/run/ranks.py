"""Several processes that measure one case together, and what their figures come to.

Each rank runs the same passes. Where a pass ends by the clock, rank 0's clock decides, since a rank
that stops early leaves the others waiting in a collective.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist

from bench.records.metrics import METRICS, Over, median_interval


@dataclass(frozen=True, slots=True)
class Ranks:
    """Position of this process among those that work on a case; by default the only one.

    Attributes:
        rank: Its number.
        count: Number of them.
        talk: The group that decisions go through; None with one rank.
    """

    rank: int = 0
    count: int = 1
    talk: dist.ProcessGroup | None = None

    def first(self, flag: bool) -> bool:
        """Rank 0's answer, on every rank."""
        return self._reduce(flag if self.rank == 0 else False, dist.ReduceOp.MAX)

    def every(self, flag: bool) -> bool:
        """Return whether the answer is yes on every rank."""
        return self._reduce(flag, dist.ReduceOp.MIN)

    def total(self, seconds: float) -> float:
        """The sum over the ranks."""
        if self.talk is None:
            return seconds
        sum_ = torch.tensor([seconds], dtype=torch.float64)
        dist.all_reduce(sum_, group=self.talk)
        return float(sum_)

    def _reduce(self, flag: bool, how: Any) -> bool:
        if self.talk is None:
            return flag
        answer = torch.tensor([int(flag)])
        dist.all_reduce(answer, op=how, group=self.talk)
        return bool(answer.item())


ALONE = Ranks()


def join(device: torch.device, timeout_s: float) -> Ranks:
    """Join the processes that `torchrun` started with this one; alone if it did not."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    limit = timedelta(seconds=timeout_s)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", timeout=limit, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=limit)
    # Decisions are host tensors.
    talk = dist.new_group(backend="gloo", timeout=limit)
    return Ranks(dist.get_rank(), count, talk)


def energy_domains(devices: Sequence[Mapping[str, Any]]) -> list[object]:
    """Return what the energy counter of each rank counts, for `merged`.

    Args:
        devices: Description of each rank's device. One without a known counter is by itself.
    """
    return [
        device["energy_domain"] or device["uuid_hash"] or f"device of rank {rank}"
        for rank, device in enumerate(devices)
    ]


def merged(results: Sequence[dict[str, Any]], domains: Sequence[object]) -> dict[str, Any]:
    """Return one result of the results of all ranks.

    Facts, counts and notes are those of rank 0; every metric has the figure of each rank.

    Args:
        results: Result of `bench.run.measure.measure` on each rank, in order.
        domains: Name for what each rank's energy counter counts. Ranks that share one count it
            once; one that cannot read it is covered by another that can, as on modules whose first
            die alone reports.
    """
    if len(results) == 1:
        return dict(results[0])
    first = results[0]
    metrics = {
        name: _merged_metric(name, [result["metrics"].get(name) for result in results], domains)
        for name in first["metrics"]
    }
    outcome = {name: _mean([r["outcome"].get(name) for r in results]) for name in first["outcome"]}
    telemetry = {
        f"{name} of rank {rank}": readings
        for rank, result in enumerate(results)
        for name, readings in result["telemetry"].items()
    }
    return {**first, "metrics": metrics, "outcome": outcome, "telemetry": telemetry}


def _merged_metric(
    name: str, parts: Sequence[dict[str, Any] | None], domains: Sequence[object]
) -> dict[str, Any]:
    kind = METRICS[name.partition(".")[0]]
    values = [part["value"] if part else None for part in parts]
    out = {**(parts[0] or {}), "ranks": values}
    flags = [flag for part in parts if part for flag in part["flags"]]
    out["flags"] = list(dict.fromkeys(flags))
    covered = {d for d, value in zip(domains, values, strict=True) if value is not None}
    for rank, value in enumerate(values):
        if value is None and not (kind.over_ranks == "device sum" and domains[rank] in covered):
            reason = (parts[rank] or {"reason": "it was not measured"})["reason"]
            nothing = {"value": None, "reason": f"rank {rank}: {reason}", "n": 0, "ci": None}
            return out | nothing | {"samples": [], "quality": "missing"}
    # That of a rank that has a figure.
    first = next(part for part in parts if part and part["value"] is not None)
    out |= {name: first[name] for name in ("method", "n", "quality", "reason")}
    if any(part and part["quality"] == "degraded" for part in parts):
        out["quality"] = "degraded"
    out["method"] = f"{out['method']}; {_WORDS[kind.over_ranks]} {len(parts)} ranks"
    out["value"] = _over(kind.over_ranks, values, domains)
    out["ci"], samples = None, [part["samples"] for part in parts if part]
    if len({len(own) for own in samples}) == 1 and samples[0]:
        steps = zip(*samples, strict=True)
        out["samples"] = [_over(kind.over_ranks, step, domains) for step in steps]
        ordered = sorted(out["samples"])
        middle = len(ordered) // 2
        out["value"] = (ordered[middle] + ordered[~middle]) / 2
        out["ci"] = list(median_interval(out["samples"]))
    else:
        out["samples"] = []
    return out


_WORDS: dict[Over, str] = {
    "largest": "largest of",
    "sum": "sum over",
    "mean": "mean over",
    "device sum": "sum over the devices of",
}


def _over(rule: Over, values: Sequence[Any], domains: Sequence[object]) -> Any:
    if rule == "largest":
        return max(values)
    if rule == "sum":
        return sum(values)
    if rule == "mean":
        return fmean(values)
    readings: dict[object, list[float]] = {}
    for domain, value in zip(domains, values, strict=True):
        if value is not None:
            readings.setdefault(domain, []).append(value)
    return sum(fmean(shared) for shared in readings.values())


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
