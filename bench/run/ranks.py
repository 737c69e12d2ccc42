"""Ranks that measure one case together, and the reduction of their figures.

Each rank runs the same passes. Where a pass ends by the clock, rank 0's clock decides, since a rank
that stops early leaves the others waiting in a collective.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from statistics import fmean, median
from typing import Any

import torch
import torch.distributed as dist

from bench.records.metrics import METRICS, Over, median_interval
from bench.records.record import CaseResult, Metric, RecordedDevice
from refsys.parallel.ledger import TrafficKey
from refsys.parallel.monitor import watching
from refsys.parallel.rendezvous import meet

# Origin of the messages of a measurement, which the ledger does not count.
_DECISION = TrafficKey("measurement", "", "forward", "all_reduce")


@dataclass(frozen=True, slots=True)
class Ranks:
    """Position of this process among those that work on a case; by default the only one.

    Attributes:
        rank: Number of this process.
        count: Number of processes.
        talk: Process group for decisions; None with one rank.
    """

    rank: int = 0
    count: int = 1
    talk: dist.ProcessGroup | None = None

    def first(self, flag: bool) -> bool:
        """Return the flag of rank 0 on every rank."""
        return self._reduce(flag if self.rank == 0 else False, dist.ReduceOp.MAX)

    def every(self, flag: bool) -> bool:
        """Return True if the flag is set on every rank."""
        return self._reduce(flag, dist.ReduceOp.MIN)

    def total(self, seconds: float) -> float:
        """Return the sum over the ranks."""
        if self.talk is None:
            return seconds
        sum_ = torch.tensor([seconds], dtype=torch.float64)
        with watching(_DECISION, self.talk):
            dist.all_reduce(sum_, group=self.talk)
        return float(sum_)

    def _reduce(self, flag: bool, how: Any) -> bool:
        if self.talk is None:
            return flag
        answer = torch.tensor([int(flag)])
        with watching(_DECISION, self.talk):
            dist.all_reduce(answer, op=how, group=self.talk)
        return bool(answer.item())


ALONE = Ranks()


def join(device: torch.device, timeout_s: float) -> Ranks:
    """Join the processes that `torchrun` started with this one; alone if it did not.

    Args:
        device: Device of this rank.
        timeout_s: Time limit of the case. The ranks wait for each other half as long at most, so
            that one that hangs is named in a result before the case ends.

    Raises:
        RankError: a rank has not joined within the timeout.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    monitor = meet(device, timeout_s / 2)
    # Decisions are host tensors.
    talk = dist.new_group(backend="gloo", timeout=timedelta(seconds=monitor.timeout_s))
    return Ranks(dist.get_rank(), count, talk)


def energy_domains(devices: Sequence[RecordedDevice]) -> list[object]:
    """Return the energy domain of each rank's device, for `merged`.

    Args:
        devices: Device of each rank. A device without a known counter is a domain of its own.
    """
    return [
        device.energy_domain or device.uuid_hash or f"device of rank {rank}"
        for rank, device in enumerate(devices)
    ]


def merged(results: Sequence[CaseResult], domains: Sequence[object]) -> CaseResult:
    """Return one result for a case from the results of its ranks.

    Static costs, counts and notes are those of rank 0; every metric has the figure of each rank.

    Args:
        results: Result of each rank, in order.
        domains: Energy domain of each rank, that is, the set of devices that its counter covers.
            Ranks of one domain count it once. A rank that cannot read its counter is covered by
            another rank of the domain that can, as on modules whose first die alone reports.
    """
    first = results[0]
    if len(results) == 1:
        return first
    metrics = {
        name: _merged_metric(name, [result.metrics.get(name) for result in results], domains)
        for name in first.metrics
    }
    outcome = {name: _mean([r.outcome.get(name) for r in results]) for name in first.outcome}
    telemetry = {
        f"{name} of rank {rank}": readings
        for rank, result in enumerate(results)
        for name, readings in result.telemetry.items()
    }
    return replace(first, metrics=metrics, outcome=outcome, telemetry=telemetry)


def _merged_metric(
    name: str, metrics: Sequence[Metric | None], domains: Sequence[object]
) -> Metric:
    """Return the reduction of a metric over ranks; missing if a rank lacks its figure.

    Args:
        name: Name of the metric.
        metrics: Metric of each rank; rank 0 has one.
        domains: Energy domain of each rank.
    """
    kind = METRICS[name.partition(".")[0]]
    values = tuple(metric.value if metric else None for metric in metrics)
    present = [metric for metric in metrics if metric]
    flags = tuple(dict.fromkeys(flag for metric in present for flag in metric.flags))
    covered = {d for d, value in zip(domains, values, strict=True) if value is not None}
    for rank, (metric, value) in enumerate(zip(metrics, values, strict=True)):
        if value is None and not (kind.over_ranks == "device sum" and domains[rank] in covered):
            reason = metric.reason if metric else "it was not measured"
            return replace(
                present[0],
                value=None,
                reason=f"rank {rank}: {reason}",
                n=0,
                ci=None,
                samples=(),
                quality="missing",
                flags=flags,
                ranks=values,
            )
    # The method is that of the first rank with a figure.
    model = next(metric for metric in present if metric.value is not None)
    quality = "degraded" if any(m.quality == "degraded" for m in present) else model.quality
    value, ci, samples = _over(kind.over_ranks, values, domains), None, ()
    if len({len(metric.samples) for metric in present}) == 1 and present[0].samples:
        steps = zip(*(metric.samples for metric in present), strict=True)
        samples = tuple(_over(kind.over_ranks, step, domains) for step in steps)
        value, ci = median(samples), median_interval(samples)
    return replace(
        model,
        value=value,
        method=f"{model.method}; {_WORDS[kind.over_ranks]} {len(metrics)} ranks",
        ci=ci,
        samples=samples,
        quality=quality,
        flags=flags,
        ranks=values,
    )


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
    present = [value for value in values if value is not None]
    return fmean(present) if len(present) == len(values) else None
