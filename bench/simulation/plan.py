"""Plans: configurations of training and inference that fit a device, and the predicted best ones.

For each number of context ranks, configurations are tried in the order of `TRAINING` or
`INFERENCE`, in which each takes less memory and more time than the one before. The first one that
fits is the best of that number of ranks. Data ranks take the devices that are left.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bench.simulation.predicted import Target
from bench.simulation.traces import SimulatedCase, trace_of
from refsys.costs.trace import Trace
from refsys.options import Value
from workloads.catalogue import catalogue
from workloads.workload import Workload

TRAIN, INFER = "training", "inference"
# Axes that a plan has unless others are chosen.
USUAL: Mapping[str, Value] = {
    "preset": "full",
    "precision": "bfloat16",
    "backend": "triton",
    "entry": "synthetic",
}
_MOST_DEVICES = 1024


@dataclass(frozen=True, slots=True)
class Saving:
    """Configuration that saves memory.

    Attributes:
        name: Description in a few words.
        axes: Axes of the workload for N tokens on P context ranks.
        ranks: Fewest ranks that it is of use on.
    """

    name: str
    axes: Callable[[int, int], Mapping[str, Value]]
    ranks: int = 1


def _rows(tokens: int, ranks: int, parts: int) -> int:
    """Return the rows of a part of a context rank's slab."""
    return max(1, -(-tokens // (ranks * parts)))


TRAINING = (
    Saving("activations saved", lambda n, p: {"checkpointing": False}),
    Saving("blocks recomputed", lambda n, p: {}),
    Saving("parameters divided", lambda n, p: {"shard_parameters": True}, ranks=2),
    Saving(
        "rows and samples in quarters",
        lambda n, p: {"chunk_rows": _rows(n, p, 4), "chunk_samples": 12},
    ),
    Saving(
        "rows in sixteenths, 4 samples",
        lambda n, p: {"chunk_rows": _rows(n, p, 16), "chunk_samples": 4},
    ),
    Saving("checkpoints on the host", lambda n, p: {"offload_checkpoints": True}),
)
INFERENCE = (
    Saving("all rows at once", lambda n, p: {}),
    Saving(
        "rows in quarters, 1 sample",
        lambda n, p: {"chunk_rows": _rows(n, p, 4), "chunk_samples": 1},
    ),
    Saving(
        "rows in sixteenths, 1 sample",
        lambda n, p: {"chunk_rows": _rows(n, p, 16), "chunk_samples": 1},
    ),
)
SAVINGS = {TRAIN: TRAINING, INFER: INFERENCE}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Subject of a plan.

    Attributes:
        goal: Training or inference.
        tokens: Tokens of an example.
        devices: Number of devices; 0 is the fewest that suffice.
        axes: Further axes of the workload, by name.
    """

    goal: str
    tokens: int
    devices: int = 0
    axes: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One configuration.

    Attributes:
        case: Case that was traced.
        saving: How it saves memory.
        context_ranks: Ranks that divide an example.
        groups: Groups of context ranks, each with examples of its own: data ranks in training.
        peak_bytes: Most bytes of a rank's tensors at once.
        memory_bytes: Memory that a rank needs, with what tensors leave out.
        host_bytes: Checkpoints of a rank in the host's memory.
        fits: Whether the device has as much.
        step_s: Predicted time of a step; None if a term is not known.
        step_j: Predicted energy of a step on all devices; None if a term is not known.
        assumed: Share of the time that rests on assumed fractions.
    """

    case: SimulatedCase
    saving: str
    context_ranks: int
    groups: int
    peak_bytes: int
    memory_bytes: int
    host_bytes: int
    fits: bool
    step_s: float | None
    step_j: float | None
    assumed: float

    @property
    def devices(self) -> int:
        """Number of devices."""
        return self.context_ranks * self.groups

    @property
    def examples(self) -> int:
        """Examples of a step on all devices."""
        return self.groups * self.case.examples

    @property
    def examples_h(self) -> float | None:
        """Examples in an hour."""
        return None if not self.step_s else 3600 * self.examples / self.step_s

    @property
    def example_j(self) -> float | None:
        """Energy of an example."""
        return None if self.step_j is None else self.step_j / self.examples


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Candidates for a request on a device.

    Attributes:
        request: The request.
        target: The device.
        candidates: Configurations that were tried: those that fit, the fastest first, then others.
        way_out: What would make it possible; empty if something fits.
    """

    request: Request
    target: Target
    candidates: tuple[Candidate, ...]
    way_out: str = ""

    @property
    def fitting(self) -> list[Candidate]:
        """Candidates that fit, most examples an hour first."""
        return [candidate for candidate in self.candidates if candidate.fits]

    @property
    def fastest(self) -> Candidate | None:
        """Candidate with most examples an hour; None if nothing fits."""
        return next(iter(self.fitting), None)

    @property
    def thriftiest(self) -> Candidate | None:
        """Candidate with the least energy of an example; None if none is known."""
        known = [c for c in self.fitting if c.example_j is not None]
        return min(known, key=lambda c: c.example_j or 0.0, default=None)


# Returns the trace of a case.
Tracing = Callable[[SimulatedCase], Trace]


def planned_workload(goal: str) -> Workload:
    """Return the workload that is planned for a goal; see `Workload.plan_goal`."""
    return next(w for w in catalogue().workloads.values() if w.plan_goal == goal)


def make_plan(request: Request, target: Target, tracing: Tracing = trace_of) -> Plan:
    """Return the plan of a request on a device.

    Args:
        request: The request.
        target: The device.
        tracing: Traces a case.

    Raises:
        WorkloadError: an axis does not exist or does not fit.
    """
    if request.devices:
        candidates = _on_devices(request, target, request.devices, tracing)
        fits = any(candidate.fits for candidate in candidates)
        way_out = "" if fits else _way_out(request, target, candidates, tracing)
    else:
        candidates, devices = [], 1
        while not any(candidate.fits for candidate in candidates) and devices <= _MOST_DEVICES:
            if devices > request.tokens:
                break
            candidates = _with_ranks(request, target, devices, devices, tracing)
            devices *= 2
        fits = any(candidate.fits for candidate in candidates)
        way_out = "" if fits else _shorter(request, target, candidates[-1])
    ordered = sorted(candidates, key=lambda c: (not c.fits, -(c.examples_h or 0.0)))
    return Plan(request=request, target=target, candidates=tuple(ordered), way_out=way_out)


def divisions(request: Request) -> list[int]:
    """Return the context ranks that a request may have.

    They are its devices and the powers of two that divide them; none without a number of devices.
    """
    counts, ranks = [], 1
    while ranks <= min(request.devices, request.tokens):
        if request.devices % ranks == 0:
            counts.append(ranks)
        ranks *= 2
    if counts and request.devices not in counts and request.devices <= request.tokens:
        counts.append(request.devices)
    return counts


def first_cases(request: Request) -> list[SimulatedCase]:
    """Return the cases whose traces nearly every plan of a request reads: to trace ahead."""
    cases = []
    for ranks in divisions(request) or [1]:
        groups = max(1, request.devices // ranks)
        listed = [case for case, _ in cases_of(request, ranks, groups)]
        cases += listed[:2]
    return cases


def _on_devices(
    request: Request, target: Target, devices: int, tracing: Tracing
) -> list[Candidate]:
    return [
        candidate
        for ranks in divisions(request)
        for candidate in _with_ranks(request, target, ranks, devices, tracing)
    ]


def _with_ranks(
    request: Request, target: Target, ranks: int, devices: int, tracing: Tracing
) -> list[Candidate]:
    """Return what was tried on a number of context ranks, until one fits."""
    tried = []
    for case, saving in cases_of(request, ranks, devices // ranks):
        tried.append(_candidate(request, target, case, saving, devices // ranks, tracing))
        if tried[-1].fits:
            break
    return tried


def cases_of(request: Request, ranks: int, groups: int) -> Iterator[tuple[SimulatedCase, str]]:
    """Yield cases and descriptions, each with less memory and more time than the one before.

    Savings add up. Chosen axes take precedence, and a saving that changes nothing is left out.
    """
    workload = planned_workload(request.goal)
    savings: dict[str, Value] = {}
    seen = []
    for saving in SAVINGS[request.goal]:
        if ranks * groups < saving.ranks:
            continue
        # Saved activations are the first choice, and are not kept by the others.
        savings.pop("checkpointing", None)
        savings |= saving.axes(request.tokens, ranks)
        axes = {
            **USUAL,
            **savings,
            "tokens": request.tokens,
            **({"context_ranks": ranks} if ranks > 1 else {}),
            **request.axes,
        }
        config = workload.configure(axes)
        if config in seen:
            continue
        seen.append(config)
        data_ranks = groups if request.goal == TRAIN else 1
        yield SimulatedCase(workload.name, config, data_ranks), saving.name


def _candidate(
    request: Request,
    target: Target,
    case: SimulatedCase,
    saving: str,
    groups: int,
    tracing: Tracing,
) -> Candidate:
    trace = tracing(case)
    time, energy = target.predict(trace, case.exchange_chunks)
    ranks = case.ranks // case.data_ranks
    step_j = energy.step_j
    return Candidate(
        case=case,
        saving=saving,
        context_ranks=ranks,
        groups=groups,
        peak_bytes=trace.peak.nbytes,
        memory_bytes=target.memory_needed(trace.peak.nbytes, ranks * groups),
        host_bytes=trace.host_bytes,
        fits=target.fits(trace.peak.nbytes, ranks * groups),
        step_s=time.step_s,
        step_j=None if step_j is None else step_j * ranks * groups,
        assumed=time.assumed_s / time.known_s if time.known_s else 1.0,
    )


def _way_out(
    request: Request, target: Target, candidates: list[Candidate], tracing: Tracing
) -> str:
    """Return more devices on which the request fits, else a shorter length."""
    devices = 2 * request.devices
    while devices <= min(_MOST_DEVICES, request.tokens):
        tried = _with_ranks(request, target, devices, devices, tracing)
        if tried[-1].fits:
            return (
                f"{devices} devices suffice, all of them dividing each example "
                f"({tried[-1].saving}): {tried[-1].memory_bytes / 1e9:,.1f} GB each"
            )
        devices *= 2
    return _shorter(request, target, candidates[-1])


def _shorter(request: Request, target: Target, last: Candidate) -> str:
    """Return the length that the square law of memory allows."""
    memory = target.entry.memory_bytes
    if memory is None:
        return f"the memory of {target.entry.name} is not listed"
    length = int(request.tokens * (memory / last.memory_bytes) ** 0.5) // 32 * 32
    return (
        f"the last configuration needs {last.memory_bytes / 1e9:,.1f} GB of "
        f"{memory / 1e9:,.0f} GB; about {length:,} tokens fit, or a device with more memory"
    )
