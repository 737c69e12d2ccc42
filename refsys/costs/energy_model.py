"""Energy of a traced step on a device: power without work times time, and energy of the work.

The energy of a FLOP is the share of the power above idle that matrix units alone draw at their peak
rate, over that rate; the energy of a byte likewise. So a dtype with half the rate costs twice the
energy. The sum cannot exceed what the power limit allows within the predicted time; waiting for the
host, for other ranks or for memory costs idle power alone. Exponentials and other instructions are
not priced by themselves.

The shares are assumptions (``[power]`` of ``achievable.toml``), and so is the idle power where no
document states it: a prediction names what it assumed. It is of one device; a board's or a node's
other consumers are not in it.
"""

from collections import defaultdict
from dataclasses import dataclass

from refsys.costs.achievable import BYTES, PRODUCTS, Achievable
from refsys.costs.achievable import assumed as assumed_fractions
from refsys.costs.machines import Machine
from refsys.costs.time_model import TimePrediction, has_kernels
from refsys.costs.trace import Trace

IDLE = "idle"


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyPrediction:
    """Predicted energy of a step on one device.

    Attributes:
        known_j: Energy of all terms that are known; a lower bound if some are not. Unit: J.
        by_term: ``idle``, ``products`` and ``bytes``; they add up to `known_j`. Unit: J.
        assumed: Figures that were assumed, by name.
        unknown: Terms that have no figure, by name.
        time_s: Predicted time of the step.
    """

    known_j: float
    by_term: dict[str, float]
    assumed: tuple[str, ...]
    unknown: tuple[str, ...]
    time_s: float

    @property
    def step_j(self) -> float | None:
        """Energy of the step; None if a term is unknown. Unit: J."""
        return None if self.unknown else self.known_j

    @property
    def mean_power_w(self) -> float | None:
        """Mean power over the step; None if a term is unknown. Unit: W."""
        return None if self.unknown or not self.time_s else self.known_j / self.time_s


def predict_energy(
    trace: Trace,
    device: Machine,
    time: TimePrediction,
    *,
    fractions: Achievable | None = None,
) -> EnergyPrediction:
    """Return the energy of a step of one rank.

    Args:
        trace: Costs of the step.
        device: Rates and power of the rank's device.
        time: Predicted time of the step on it.
        fractions: Shares of power; the assumed ones if None.
    """
    fractions = fractions or assumed_fractions()
    limit_w, idle_w = device.power_w, device.idle_w
    if limit_w is None:
        unknown = (f"power limit of {device.name}", *time.unknown)
        return EnergyPrediction(
            known_j=0.0, by_term={}, assumed=(), unknown=unknown, time_s=time.known_s
        )
    assumed = [f"share of power of {name}" for name in (PRODUCTS, BYTES)]
    if idle_w is None:
        idle_w = fractions.power[IDLE] * limit_w
        assumed.append("idle power")
    available_w = limit_w - idle_w
    dynamic, unknown_terms = _work_energy(trace, device, available_w, fractions)
    most = available_w * time.known_s
    scale = min(1.0, most / total) if (total := sum(dynamic.values())) else 1.0
    by_term = {IDLE: idle_w * time.known_s}
    by_term |= {name: joules * scale for name, joules in dynamic.items() if joules}
    return EnergyPrediction(
        known_j=sum(by_term.values()),
        by_term=by_term,
        assumed=tuple(assumed),
        unknown=tuple(dict.fromkeys((*time.unknown, *unknown_terms))),
        time_s=time.known_s,
    )


def _work_energy(
    trace: Trace, device: Machine, available_w: float, fractions: Achievable
) -> tuple[dict[str, float], list[str]]:
    """Return the energy of FLOPs and bytes, and the terms without a rate."""
    flops: defaultdict[str, int] = defaultdict(int)
    nbytes = 0
    for origin, cost in trace.costs.items():
        if has_kernels(origin, cost):
            flops[origin.dtype] += cost.flops
            nbytes += cost.nbytes
    work = [(PRODUCTS, dtype, amount) for dtype, amount in flops.items()] + [(BYTES, "", nbytes)]
    energy: defaultdict[str, float] = defaultdict(float)
    unknown = []
    for resource, dtype, amount in work:
        if not amount:
            continue
        rate = device.rate(resource, dtype)
        if rate is None:
            of_dtype = f" of {dtype or 'an unknown dtype'}" if resource == PRODUCTS else ""
            unknown.append(f"{resource}{of_dtype} on {device.name}")
        else:
            energy[resource] += amount * fractions.power[resource] * available_w / rate
    return dict(energy), unknown
