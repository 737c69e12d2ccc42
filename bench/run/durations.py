"""Estimates of the duration of cases: from cases that ended before, else from the protocol.

A duration is divided by the one expected from the protocol alone (`expected_s`); the ratio is
carried over to other cases, so that records under another protocol count as well. The nearest
cases decide: the same ones, else those of other sizes by a power law of the size, else the same
work on another backend or number of ranks, else the workload's, else all.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.errors import StorageError
from bench.records.origin import Host
from bench.records.reading import read_records
from bench.records.record import Record, RecordedDevice
from bench.records.record_file import RECORDS
from bench.records.structure import to_json
from bench.run.points import Point, point_of
from workloads.errors import WorkloadError
from workloads.workload import Catalogue

# Seconds of a case beside its steps: interpreter, imports and building; of each further rank; of an
# accelerator's context and busy counter.
_START_S, _RANK_S, _ACCELERATOR_S = 4.0, 2.0, 8.0
# Seconds of compilation, by backend.
_COMPILE_S = {"compiled": 40.0, "triton": 20.0}
# Steps beside those of the protocol: two for memory; for counts about eight steps' time.
_MEMORY_STEPS, _COUNT_STEPS = 2, 8
# Seconds of a step without any observation.
_STEP_S = 0.5
# Steps run for so long before and after an energy window.
_PADDING_S = 1.0
# Slopes of log duration over log size that measured sizes are extended by.
_SLOPES = (0.0, 3.0)
# Slopes if one size alone is known: steps grow faster, and a part is constant.
_SLOPE_UP, _SLOPE_DOWN = 1.0, 0.5
# Statuses of cases whose duration tells that of similar cases.
_INFORMATIVE = frozenset({"ok", "timeout"})


def expected_s(protocol: Mapping[str, Any], point: Point, *, accelerator: bool) -> float:
    """Return the duration of a case that is expected from the protocol alone.

    Args:
        protocol: Fields of `bench.run.measure.Protocol`; others are ignored.
        point: Position of the case.
        accelerator: True if there is a device with an energy counter beside the host.
    """
    steps = _MEMORY_STEPS + protocol["warmup_steps"] + protocol["timed_steps"]
    steps += _COUNT_STEPS * bool(protocol["counts"])
    extra = _ACCELERATOR_S + protocol["energy_s"] + _PADDING_S if accelerator else 0.0
    extra += _COMPILE_S.get(point.backend, 0.0) + _RANK_S * (point.ranks - 1)
    return _START_S + extra + _STEP_S * steps


class Observation(NamedTuple):
    """Position of a case that ended, and its duration over the expected one."""

    point: Point
    ratio: float


class Durations:
    """Durations observed so far, and estimates of others."""

    def __init__(self, *, accelerator: bool) -> None:
        self._accelerator = accelerator
        self._observations: list[Observation] = []
        self._exact: dict[Point, float] = {}

    def observe(
        self, point: Point, protocol: Mapping[str, Any], status: str, seconds: float
    ) -> None:
        """Note the duration of a case; an early failure counts for the same case alone.

        Args:
            point: Its position.
            protocol: See `expected_s`.
            status: Its status.
            seconds: Its duration.
        """
        if seconds <= 0:
            return
        point = point._replace(replicate=0)
        ratio = seconds / expected_s(protocol, point, accelerator=self._accelerator)
        self._exact[point] = ratio
        if status in _INFORMATIVE:
            self._observations.append(Observation(point, ratio))

    def observe_records(
        self, records: Iterable[Record], catalogue: Catalogue, is_like: Callable[[Record], bool]
    ) -> None:
        """Note the durations of records, in order; those that cannot be read are skipped.

        Args:
            records: Of any sweep.
            catalogue: Workloads; records of others are skipped.
            is_like: Returns True for a record of a machine like this one.
        """
        for record in records:
            try:
                if record.duration_s <= 0 or not is_like(record):
                    continue
                case = record.workload
                point = point_of(catalogue[case.name], dict(case.config), case.ranks)
                protocol = to_json(record.protocol)
                self.observe(point, protocol, record.status, record.duration_s)
            except (KeyError, TypeError, ValueError, WorkloadError):
                continue  # of a workload or a version that is not installed

    def knows(self, point: Point) -> bool:
        """Return True if a case of the same workload was observed."""
        return any(observed.point.workload == point.workload for observed in self._observations)

    def knows_kind(self, point: Point) -> bool:
        """Return True if a case of the same workload and kind was observed."""
        return any(
            (observed.point.workload, observed.point.kind) == (point.workload, point.kind)
            for observed in self._observations
        )

    def estimate(self, point: Point, protocol: Mapping[str, Any]) -> float:
        """Return the estimated seconds of a case."""
        ratio = self._ratio(point._replace(replicate=0))
        return ratio * expected_s(protocol, point, accelerator=self._accelerator)

    def _ratio(self, point: Point) -> float:
        if point in self._exact:
            return self._exact[point]
        nearer: tuple[Callable[[Point], bool], ...] = (
            lambda p: p.pair == point.pair and p.kind == point.kind and p.ranks == point.ranks,
            lambda p: p.pair == point.pair and p.kind[:2] == point.kind[:2],
            lambda p: (p.workload, p.kind[:2]) == (point.workload, point.kind[:2]),
        )
        for is_near in nearer:
            by_size: dict[float, list[float]] = {}
            for observed in self._observations:
                if is_near(observed.point):
                    by_size.setdefault(observed.point.size, []).append(observed.ratio)
            if by_size:
                medians = {size: median(ratios) for size, ratios in by_size.items()}
                return _at_size(medians, point.size)
        of_workload = [o.ratio for o in self._observations if o.point.workload == point.workload]
        ratios = of_workload or [o.ratio for o in self._observations]
        return median(ratios) if ratios else 1.0


def known_durations(
    runs: Path, catalogue: Catalogue, host: Host, device: RecordedDevice
) -> Durations:
    """Return the durations in a folder's records of machines like this one.

    Args:
        runs: Folder of the sweeps' folders; a missing or unreadable one has none.
        catalogue: Workloads.
        host: This host, as records have it.
        device: The device of the cases, as records have it.
    """
    durations = Durations(accelerator=device.kind != "cpu")

    def is_like(record: Record) -> bool:
        other = record.devices[0]
        same_host = (record.host.cpu, record.host.cores) == (host.cpu, host.cores)
        return same_host and (other.kind, other.name) == (device.kind, device.name)

    for path in sorted(runs.glob(f"*/{RECORDS}")):
        try:
            durations.observe_records(read_records([path]), catalogue, is_like)
        except StorageError:
            continue  # estimates are optional
    return durations


def _at_size(ratios: Mapping[float, float], size: float) -> float:
    """Return the ratio at a size: a line through the logarithms of the two nearest sizes."""
    sizes = sorted(ratios)
    if size in ratios or size <= 0 or sizes[0] <= 0:
        return ratios.get(size, median(ratios.values()))
    if len(sizes) == 1:
        slope = _SLOPE_UP if size > sizes[0] else _SLOPE_DOWN
        return ratios[sizes[0]] * (size / sizes[0]) ** slope
    low, high = next((pair for pair in pairwise(sizes) if size < pair[1]), (sizes[-2], sizes[-1]))
    slope = math.log(ratios[high] / ratios[low]) / math.log(high / low)
    if low < size < high:
        return ratios[low] * (size / low) ** slope
    nearest = low if size < low else high
    return ratios[nearest] * (size / nearest) ** min(max(slope, _SLOPES[0]), _SLOPES[1])
