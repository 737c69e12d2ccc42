"""Time of a traced step on a device, by phase, kind of operator and term.

Device time. The operators of one origin (phase, module, name, dtype) take the longest of four
times: FLOPs, bytes and exponentials, each over the rate that their kind achieves
(`refsys.costs.achievable`), and launches times the shortest time of a kernel. Origins follow one
another. Operators that only allocate or communicate take none.

Host time. In eager mode each call takes the host its time, and each kernel that a fused operator
starts takes more. Host and device overlap: a phase takes the longer of both, as if the host waited
for the device at its end. A captured graph has no host time. On a processor calls and work take
turns, so that both add up.

Communication. Each kind of collective takes the time of the link model (`refsys.costs.links`). Part
of it is hidden as far as the phase's device time reaches: of parameters and gradients all but one
bucket, and of exchanges in n chunks (n - 1) / n. Only the exposed remainder counts. Nothing is
hidden on a processor.

Recomputation runs inside the backward pass, and counts as part of its phase.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from refsys.costs.achievable import BYTES, EXPONENTIALS, HOST, PRODUCTS, Accuracy, Achievable
from refsys.costs.achievable import assumed as assumed_fractions
from refsys.costs.collectives import CollectiveKey
from refsys.costs.devices import Link, named_link
from refsys.costs.links import Network, transfer_time
from refsys.costs.machines import Machine
from refsys.costs.operator_kinds import operator_kind
from refsys.costs.trace import Cost, Origin, Trace

LAUNCHES, COMMUNICATION = "launches", "communication"
TERMS = (PRODUCTS, BYTES, EXPONENTIALS, LAUNCHES, HOST, COMMUNICATION)
# Collectives of parameters and gradients, by the name that they are counted under.
_OF_PARAMETERS = frozenset({"parameters", "gradients"})
_INSIDE_BACKWARD = {"recompute": "backward"}
_BUILT_IN = ("aten.", "prims.", "fsdp.")


class Part(NamedTuple):
    """Device time of operators of one kind that the same term limits.

    Attributes:
        kind: Kind, as in `Achievable.kinds`.
        term: Term that limits them.
        is_measured: Whether it follows from measured rates and fitted fractions alone.
    """

    kind: str
    term: str
    is_measured: bool


@dataclass(slots=True)
class PhaseTerms:
    """Times of a phase before they overlap.

    Attributes:
        device: Device time by part.
        host_s: Time of the host.
        hideable_s: Time of collectives that may run beside computation.
        exposed_s: Time of collectives that may not.
    """

    device: defaultdict[Part, float] = field(default_factory=lambda: defaultdict(float))
    host_s: float = 0.0
    hideable_s: float = 0.0
    exposed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """Predicted time of a phase. Unit of all: s.

    Attributes:
        device_s: Time of the device's operators.
        host_s: Time of the host, overlapped or not.
        host_exposed_s: Host time that is not hidden by the device.
        communication_s: Time of collectives that is not hidden.
        hidden_s: Time of collectives that is hidden.
    """

    device_s: float
    host_s: float
    host_exposed_s: float
    communication_s: float
    hidden_s: float

    @property
    def seconds(self) -> float:
        """Time of the phase."""
        return self.device_s + self.host_exposed_s + self.communication_s


@dataclass(frozen=True, kw_only=True, slots=True)
class TimePrediction:
    """Predicted time of a step. Unit of all times: s.

    Attributes:
        known_s: Time of all terms that are known: a lower bound of the prediction if some are not.
        phases: By phase.
        by_kind: By kind of operator, ``host`` and ``communication``; they add up to `known_s`.
        by_term: By term, of `TERMS`; they add up to `known_s`.
        assumed_s: Part of `known_s` whose achievable fraction was assumed and never measured.
        unknown: Terms that have no rate, by name.
        accuracy: Error on this device as learned from records; None if no pair is recorded.
    """

    known_s: float
    phases: dict[str, PhaseTime]
    by_kind: dict[str, float]
    by_term: dict[str, float]
    assumed_s: float
    unknown: tuple[str, ...] = ()
    accuracy: Accuracy | None = None

    @property
    def step_s(self) -> float | None:
        """Time of the step; None if a term is unknown."""
        return None if self.unknown else self.known_s

    @property
    def accuracy_text(self) -> str:
        """Error of the prediction in words."""
        if self.accuracy is None:
            return "no recorded pair"
        return (
            f"|ln(predicted / measured)| of {self.accuracy.pairs} recorded pairs: median "
            f"{self.accuracy.median:.3f}, 90 % below {self.accuracy.p90:.3f}"
        )


def predict_time(
    trace: Trace,
    device: Machine,
    *,
    ranks_per_node: int | None = None,
    link: Link | None = None,
    inter_link: Link | None = None,
    fractions: Achievable | None = None,
    exchange_chunks: int = 1,
    graph: bool = False,
) -> TimePrediction:
    """Return the time of a step of one rank.

    Args:
        trace: Costs of the step.
        device: Rates of the rank's device.
        ranks_per_node: Ranks of a node; as many as the link usually connects if None.
        link: Link inside a node; the device's own if None.
        inter_link: Network across nodes; the device's usual one if None.
        fractions: Fractions that operators achieve; the assumed ones if None.
        exchange_chunks: Parts in which context ranks exchange channels.
        graph: Whether the step is a captured graph, which the host does not delay.
    """
    fractions = fractions or assumed_fractions()
    network = network_of(device, fractions, ranks_per_node, link, inter_link)
    terms, unknown = phase_terms(trace, device, network, fractions, exchange_chunks, graph=graph)
    is_fitted_host = fractions.host_fitted and fractions.fitted_on == device.name
    phases: dict[str, PhaseTime] = {}
    by_kind: defaultdict[str, float] = defaultdict(float)
    by_term: defaultdict[str, float] = defaultdict(float)
    assumed_s = 0.0
    for phase, parts in terms.items():
        time = phases[phase] = overlapped(parts, is_host=device.is_host)
        for part, seconds in parts.device.items():
            by_kind[part.kind] += seconds
            by_term[part.term] += seconds
            assumed_s += 0.0 if part.is_measured else seconds
        for name, seconds in (
            (HOST, time.host_exposed_s),
            (COMMUNICATION, time.communication_s),
        ):
            if seconds:
                by_kind[name] += seconds
                by_term[name] += seconds
        assumed_s += time.communication_s + (0.0 if is_fitted_host else time.host_exposed_s)
    return TimePrediction(
        known_s=sum(time.seconds for time in phases.values()),
        phases=phases,
        by_kind=dict(sorted(by_kind.items(), key=lambda item: -item[1])),
        by_term={term: by_term[term] for term in TERMS if by_term[term]},
        assumed_s=assumed_s,
        unknown=unknown,
        accuracy=fractions.accuracy if fractions.fitted_on == device.name else None,
    )


def network_of(
    device: Machine,
    fractions: Achievable,
    ranks_per_node: int | None = None,
    link: Link | None = None,
    inter_link: Link | None = None,
) -> Network:
    """Return the links between ranks; see `predict_time`."""
    inside = link or (named_link(device.link) if device.link else None)
    across = inter_link or (named_link(device.network) if device.network else None)
    return Network(
        ranks_per_node=ranks_per_node or (inside and inside.devices) or 1,
        inside=inside,
        across=across,
        share=fractions.link_bytes,
        start_s=fractions.collective_s,
    )


def phase_terms(
    trace: Trace,
    device: Machine,
    network: Network,
    fractions: Achievable,
    exchange_chunks: int = 1,
    *,
    graph: bool = False,
) -> tuple[dict[str, PhaseTerms], tuple[str, ...]]:
    """Return the times of each phase before they overlap, and the terms that are unknown."""
    names = dict.fromkeys(trace.phase_peaks) | {o.phase: None for o in trace.costs}
    terms = {_step_phase(phase, names): PhaseTerms() for phase in names}
    unknown: dict[str, None] = {f"FLOPs of {name}": None for name in trace.unpriced}
    for origin, cost in trace.costs.items():
        if operator_kind(origin.operator) == COMMUNICATION:
            continue
        phase = terms[_step_phase(origin.phase, names)]
        if not graph:
            phase.host_s += _host_s(origin, cost, fractions)
        if not has_kernels(origin, cost):
            continue
        kind = fractions.kind_of(origin.operator)
        seconds, missing = _origin_times(origin, cost, device, fractions, kind, graph=graph)
        unknown |= dict.fromkeys(missing)
        if seconds:
            term = max(seconds, key=lambda name: seconds[name])
            slowdown = fractions.kinds[kind].slowdown
            is_measured = fractions.kinds[kind].fitted and fractions.fitted_on == device.name
            phase.device[Part(kind, term, is_measured)] += seconds[term] * slowdown
    for key, total in trace.communication.items():
        transfer = transfer_time(key.kind, key.ranks, total, network)
        unknown |= dict.fromkeys(transfer.unknown)
        phase = terms.setdefault(_step_phase(key.phase, names), PhaseTerms())
        share = 0.0 if device.is_host else _hideable_share(key, fractions, exchange_chunks)
        phase.hideable_s += share * transfer.seconds
        phase.exposed_s += (1 - share) * transfer.seconds
    return terms, tuple(unknown)


def overlapped(terms: PhaseTerms, *, is_host: bool) -> PhaseTime:
    """Return the time of a phase whose host, device and communication overlap."""
    device_s = sum(terms.device.values())
    hidden_s = min(terms.hideable_s, device_s)
    return PhaseTime(
        device_s=device_s,
        host_s=terms.host_s,
        host_exposed_s=terms.host_s if is_host else max(0.0, terms.host_s - device_s),
        communication_s=terms.exposed_s + terms.hideable_s - hidden_s,
        hidden_s=hidden_s,
    )


def has_kernels(origin: Origin, cost: Cost) -> bool:
    """Return whether operators of an origin compute or move data on the device.

    Those of torch that start no kernel only allocate.
    """
    if operator_kind(origin.operator) == COMMUNICATION:
        return False
    return bool(cost.launches) or not origin.operator.startswith(_BUILT_IN)


def _step_phase(phase: str, phases: dict[str, None]) -> str:
    """Return the phase of the step that a phase of the trace runs in."""
    outer = _INSIDE_BACKWARD.get(phase, phase)
    return outer if outer in phases else phase


def _host_s(origin: Origin, cost: Cost, fractions: Achievable) -> float:
    started = 0 if origin.operator.startswith(_BUILT_IN) else cost.launches
    seconds = cost.calls * fractions.call_s + started * fractions.kernel_s
    return seconds * fractions.host_slowdown


def _origin_times(
    origin: Origin,
    cost: Cost,
    device: Machine,
    fractions: Achievable,
    kind: str,
    *,
    graph: bool,
) -> tuple[dict[str, float], list[str]]:
    """Return the time of each term of an origin, and the terms that have no rate."""
    work = {PRODUCTS: cost.flops, BYTES: cost.nbytes, EXPONENTIALS: cost.exponentials}
    if device.is_host:
        work[EXPONENTIALS] = 0
    seconds: dict[str, float] = {}
    missing = []
    for resource, amount in work.items():
        if not amount:
            continue
        rate = device.rate(resource, origin.dtype)
        if rate is None:
            dtype = f" of {origin.dtype or 'an unknown dtype'}" if resource == PRODUCTS else ""
            missing.append(f"{resource}{dtype} on {device.name}")
            continue
        if not device.is_achieved(resource, origin.dtype):
            rate *= fractions.attainable[resource]
        seconds[resource] = amount / (rate * fractions.kinds[kind].of(resource))
    if cost.launches and not device.is_host:
        shortest = fractions.graph_launch_s if graph else fractions.launch_s
        seconds[LAUNCHES] = cost.launches * shortest
    return seconds, missing


def _hideable_share(key: CollectiveKey, fractions: Achievable, exchange_chunks: int) -> float:
    """Return the share of a collective's time that may run beside computation."""
    if key.operator in _OF_PARAMETERS:
        return fractions.parameters_overlap
    if key.kind.startswith("all_to_all"):
        return (exchange_chunks - 1) / exchange_chunks
    return 0.0
