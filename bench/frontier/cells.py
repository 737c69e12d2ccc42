"""Cells of a frontier: the longest sequence of one variant on one number of ranks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

from bench.errors import UsageError
from bench.frontier.memory import Memory
from bench.frontier.prediction import Peaks, predict_edge, traced_peak_bytes
from bench.frontier.runs import CaseRuns, Run, judged, resident_peak_bytes
from bench.frontier.search import Edge, Gallop, Outcome, most_trials, search
from bench.records.record import Record
from bench.simulation.baseline import Baseline, assumed_baseline
from refsys.training.loading import SYNTHETIC
from workloads.workload import Axes, Config, Workload

TOKENS, CONTEXT_RANKS = "tokens", "context_ranks"
# Choices of a frontier where a workload has the axis and the user chooses nothing: any length, and
# no memory of loader processes.
_DEFAULTS: Mapping[str, object] = {"entry": SYNTHETIC, "workers": 0}
# Tokens that are traced first.
_FIRST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Space:
    """Lengths, variants and numbers of ranks of a frontier.

    Attributes:
        workload: Workload of all cases.
        axes: Axes that every case has.
        variants: Further axes of each variant, by its name; the name of none is ``default``.
        ranks: Numbers of context ranks.
        tile: Lengths are multiples of it. Unit: tokens.
        most: Largest number of tiles.
    """

    workload: Workload
    axes: Mapping[str, object]
    variants: Mapping[str, Mapping[str, object]]
    ranks: tuple[int, ...]
    tile: int
    most: int

    def __post_init__(self) -> None:
        names = {axis.name for axis in self.workload.axes}
        if TOKENS not in names:
            raise UsageError(f"{self.workload.name} has no axis {TOKENS}: it has no frontier")
        for name, value in chain(
            *(table.items() for table in (self.axes, *self.variants.values()))
        ):
            if name == TOKENS:
                raise UsageError(f"{name}={value}: {name} is what a frontier varies; leave it out")
            if name == CONTEXT_RANKS:
                raise UsageError(
                    f"{name}={value}: a frontier varies the ranks; take --context-ranks"
                )
        for variant in self.variants:
            for ranks in self.ranks:
                self.config(variant, ranks, self.tile)

    def config(self, variant: str, ranks: int, tokens: int) -> Config:
        """Return the configuration of a case.

        Raises:
            WorkloadError: an axis is unknown, or a value does not fit.
        """
        names = {axis.name for axis in self.workload.axes}
        defaults = {name: value for name, value in _DEFAULTS.items() if name in names}
        shared: dict[str, object] = {TOKENS: tokens}
        if ranks > 1 or CONTEXT_RANKS in names:
            shared[CONTEXT_RANKS] = ranks
        return self.workload.configure(
            defaults | dict(self.axes) | dict(self.variants[variant]) | shared
        )

    def shared_axes(self, variant: str, ranks: int) -> Axes:
        """Return the axes that all cases of a cell share."""
        values = self.workload.values(self.config(variant, ranks, self.tile))
        return {name: value for name, value in values.items() if name != TOKENS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Longest sequence of one variant on one number of ranks.

    Attributes:
        variant: Name of the variant.
        ranks: Context ranks.
        tile: Lengths are multiples of it. Unit: tokens.
        most: Largest number of tiles that was allowed.
        baseline: Memory beside the tensors; None if it was not measured.
        peaks: Traced peaks by number of tiles.
        predicted: Edge by tracing; None if there is no prediction.
        unpredicted: Why there is none; empty if there is one.
        measured: Edge by runs; None if nothing was run.
        runs: Runs by number of tiles, in order.
    """

    variant: str
    ranks: int
    tile: int
    most: int
    baseline: Baseline | None
    peaks: Peaks = field(default_factory=dict)
    predicted: Edge | None = None
    unpredicted: str = ""
    measured: Edge | None = None
    runs: Mapping[int, Run] = field(default_factory=dict)

    @property
    def failing_run(self) -> Run | None:
        """Shortest run above the longest that fits; None if there is none."""
        failing = self.measured.failing if self.measured else None
        return None if failing is None else self.runs[failing]

    @property
    def fault(self) -> str:
        """Why not even the shortest case could be measured, if not for want of memory."""
        if self.measured is None or self.measured.longest or not (run := self.runs.get(1)):
            return ""
        return "" if run.status in {"ok", "oom"} else f"{run.status}: {run.reason}"

    def tokens(self, edge: Edge | None) -> int | None:
        """Return the longest sequence of an edge."""
        return None if edge is None else edge.longest * self.tile

    def expected_bytes(self, tiles: int) -> int | None:
        """Return the predicted memory of a rank at a length that was traced. Unit: B."""
        if self.baseline is None or tiles not in self.peaks:
            return None
        return self.baseline.with_tensors(self.peaks[tiles])

    def as_json(self) -> dict[str, Any]:
        """Return the cell for programs."""
        failing = self.failing_run
        return {
            "variant": self.variant,
            "context_ranks": self.ranks,
            "predicted_longest_tokens": self.tokens(self.predicted),
            "unpredicted_reason": self.unpredicted or None,
            "longest_tokens": self.tokens(self.measured),
            "settled": None if self.measured is None else self.measured.settled,
            "first_failing_tokens": failing and failing.tokens,
            "first_failing_status": failing and failing.status,
            "first_failing_reason": failing and failing.reason,
            "baseline": self.baseline
            and {
                "bytes": self.baseline.nbytes,
                "share_of_tensors": self.baseline.share,
                "origin": self.baseline.origin,
            },
            "traced": [
                {"tokens": tiles * self.tile, "peak_bytes": nbytes}
                for tiles, nbytes in sorted(self.peaks.items())
            ],
            "runs": [
                {
                    "tokens": run.tokens,
                    "status": run.status,
                    "reason": run.reason or None,
                    "peak_bytes": run.peak_bytes,
                    "peak_is_lower_bound": run.peak_is_lower_bound,
                    "predicted_bytes": self.expected_bytes(tiles),
                    "run_id": run.record.run_id,
                }
                for tiles, run in self.runs.items()
            ],
            "most_runs": most_trials(self.most),
        }


class Frontier:
    """Search of all cells of a space under one memory limit."""

    def __init__(
        self,
        space: Space,
        memory: Memory,
        runs: CaseRuns | None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Set the search up.

        Args:
            space: Lengths, variants and ranks.
            memory: Memory of a rank.
            runs: Runs of cases; None predicts without any, unless a baseline must be measured.
            say: Called with a line about each trace.
        """
        self._space, self._memory, self._runs, self._say = space, memory, runs, say

    def cells(self, *, measured: bool) -> Iterator[Cell]:
        """Yield every cell once its search has ended.

        Args:
            measured: Whether cases are run to find the edge.
        """
        for variant in self._space.variants:
            for ranks in self._space.ranks:
                yield self._cell(variant, ranks, measured=measured)

    def _cell(self, variant: str, ranks: int, *, measured: bool) -> Cell:
        space = self._space
        runs: dict[int, Run] = {}

        def run(tiles: int) -> Outcome:
            tokens = tiles * space.tile
            assert self._runs
            record = self._runs.record(space.config(variant, ranks, tokens), ranks)
            runs[tiles] = judged(tokens, record, self._memory)
            return runs[tiles].outcome

        baseline: Baseline | None = None
        known: dict[int, Outcome] = {}
        if self._memory.kind == "cuda":
            baseline = assumed_baseline(ranks)
        else:
            known[1] = run(1)
            baseline = _measured_baseline(runs[1].record)
        predicted, peaks, unpredicted = self._predicted(variant, ranks, baseline)
        edge: Edge | None = None
        if measured:
            expected = min(max(predicted.longest if predicted else 1, 1), space.most)
            guide = Gallop(expected, known=1 if known else 0)
            edge = search(lambda n: known[n] if n in known else run(n), space.most, guide)
            if predicted and edge.longest and edge.longest not in peaks:
                peaks[edge.longest] = self._traced(variant, ranks, edge.longest)
        return Cell(
            variant=variant,
            ranks=ranks,
            tile=space.tile,
            most=space.most,
            baseline=baseline,
            peaks=peaks,
            predicted=predicted,
            unpredicted=unpredicted,
            measured=edge,
            runs=runs,
        )

    def _predicted(
        self, variant: str, ranks: int, baseline: Baseline | None
    ) -> tuple[Edge | None, Peaks, str]:
        """Return the predicted edge and the traced peaks, or the reason for having none."""
        if baseline is None:
            return None, {}, "the baseline of a process was not measured"
        most, peak_bytes = self._space.most, partial(self._traced, variant, ranks)
        start = min(max(_FIRST_TOKENS // self._space.tile, 1), most)
        try:
            edge, peaks = predict_edge(peak_bytes, self._memory.nbytes, baseline, most, start)
        except Exception as error:  # a workload that cannot be traced is measured all the same
            return None, {}, " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return edge, peaks, ""

    def _traced(self, variant: str, ranks: int, tiles: int) -> int:
        """Return the traced peak of a rank's tensors at a length. Unit: B."""
        space, tokens = self._space, tiles * self._space.tile
        nbytes = traced_peak_bytes(space.workload, space.config(variant, ranks, tokens))
        self._say(
            f"traced      {variant}, {ranks} rank(s), {tokens:,} tokens: "
            f"{nbytes / 2**30:.2f} GiB of tensors"
        )
        return nbytes


def _measured_baseline(record: Record) -> Baseline | None:
    """Return the baseline of a process on a CPU, of the shortest case; None if it did not end well.

    Where the kernel's count cannot be had, it is all that the guard saw, tensors included.
    """
    if record.status != "ok":
        return None
    nbytes = record.value("baseline_resident_bytes")
    if nbytes is None:
        nbytes = resident_peak_bytes(record)
    if nbytes is None:
        return None
    return Baseline(
        int(nbytes), 0.0, "measured: resident memory of the shortest case before its step"
    )
