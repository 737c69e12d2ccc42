"""Slowdown of each kind of operator on a device, by robust least squares over pairs.

The model is that of `refsys.costs.time_model`: the device time of each kind, and the host's, times
a slowdown of its own, then overlapped. Residuals are logarithms of predicted over measured time, so
that short phases count as much as long ones, under a soft L1 loss. Slowdowns are drawn weakly to a
common one: a kind that hardly takes time in any pair does not get a wild one, and does not count as
measured.

The error of a prediction is that of each record by a fit that did not have it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import UsageError
from bench.prediction.pairs import Pair, kinds_of
from refsys.costs.achievable import HOST, Accuracy, Achievable, assumed
from refsys.costs.machines import Machine

_PRIOR = 0.1
_SCALE = 0.1
# Share of the time of some observation from which a kind counts as measured.
MEASURED_SHARE = 0.05
FEWEST_PAIRS = 3

_Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """Fitted slowdowns of one device.

    Attributes:
        machine: Rates that the slowdowns are relative to.
        slowdowns: By kind that was measured; `HOST` is the host's.
        records: Identifiers of the records.
        accuracy: Error of each record by a fit without it.
    """

    machine: Machine
    slowdowns: dict[str, float]
    records: tuple[str, ...]
    accuracy: Accuracy

    def achievable(self) -> Achievable:
        """Return the assumed fractions with these slowdowns."""
        return assumed().fitted(
            self.machine.name, self.slowdowns, records=self.records, accuracy=self.accuracy
        )


class _Rows:
    """Terms of observations as arrays: phases by kinds, and the observation of each phase."""

    def __init__(self, pairs: Sequence[Pair], kinds: Sequence[str]) -> None:
        position = {kind: n for n, kind in enumerate(kinds)}
        observations = [o for pair in pairs for o in pair.observations]
        phases = [(n, phase) for n, o in enumerate(observations) for phase in o.phases]
        self.device = np.zeros((len(phases), len(kinds)))
        for row, (_, phase) in enumerate(phases):
            for part, seconds in phase.device.items():
                self.device[row, position[part.kind]] += seconds
        self.host = np.array([phase.host_s for _, phase in phases])
        self.hideable = np.array([phase.hideable_s for _, phase in phases])
        self.exposed = np.array([phase.exposed_s for _, phase in phases])
        self.observation = np.array([n for n, _ in phases], dtype=int)
        self.record = np.array(
            [n for n, pair in enumerate(pairs) for _ in pair.observations], dtype=int
        )
        self.measured = np.array([o.seconds for o in observations])
        self.is_host = np.array(
            [pair.machine.is_host for pair in pairs for o in pair.observations for _ in o.phases]
        )

    def predicted(self, slowdowns: _Array) -> _Array:
        """Return the time of each observation; the last slowdown is the host's."""
        device, host = self.device @ slowdowns[:-1], self.host * slowdowns[-1]
        exposed_host = np.where(self.is_host, host, np.maximum(0.0, host - device))
        communication = self.exposed + np.maximum(0.0, self.hideable - device)
        total = np.zeros(len(self.measured))
        np.add.at(total, self.observation, device + exposed_host + communication)
        return total

    def shares(self, slowdowns: _Array) -> _Array:
        """Return the largest share that each kind, and the host, has of an observation."""
        parts = np.column_stack([self.device * slowdowns[:-1], self.host * slowdowns[-1]])
        sums = np.zeros((len(self.measured), parts.shape[1]))
        np.add.at(sums, self.observation, parts)
        return np.asarray((sums / self.predicted(slowdowns)[:, None]).max(axis=0))


def fit_slowdowns(pairs: Sequence[Pair]) -> Fit:
    """Return the slowdowns that describe the pairs of one device best, and their error.

    Raises:
        UsageError: the pairs are too few, or of several devices.
        ImportError: SciPy is not installed.
    """
    if len(pairs) < FEWEST_PAIRS:
        raise UsageError(f"{len(pairs)} pairs are too few to fit; record at least {FEWEST_PAIRS}")
    names = {pair.machine.name for pair in pairs}
    if len(names) > 1:
        raise UsageError(
            f"pairs of several devices, {', '.join(sorted(names))}: fit each by itself"
        )
    kinds = kinds_of(pairs)
    rows = _Rows(pairs, kinds)
    slowdowns = _solve(rows)
    shares = rows.shares(slowdowns)
    measured = {
        name: float(slowdown)
        for name, slowdown, share in zip((*kinds, HOST), slowdowns, shares, strict=True)
        if share >= MEASURED_SHARE
    }
    errors = left_out_errors(pairs)
    return Fit(
        machine=pairs[0].machine,
        slowdowns=measured,
        records=tuple(pair.run_id for pair in pairs),
        accuracy=Accuracy(
            median=float(np.median(errors)), p90=float(np.quantile(errors, 0.9)), pairs=len(pairs)
        ),
    )


def left_out_errors(pairs: Sequence[Pair]) -> list[float]:
    """Return ``|ln(predicted / measured)|`` of each pair's total, by a fit of the other pairs."""
    kinds = kinds_of(pairs)
    errors = []
    for left_out in range(len(pairs)):
        others = [pair for n, pair in enumerate(pairs) if n != left_out]
        slowdowns = _solve(_Rows(others, kinds))
        rows = _Rows([pairs[left_out]], kinds)
        ratio = rows.predicted(slowdowns).sum() / rows.measured.sum()
        errors.append(float(abs(np.log(ratio))))
    return errors


def _solve(rows: _Rows) -> _Array:
    """Return the slowdown of each kind, then the host's."""
    from scipy.optimize import least_squares

    count = rows.device.shape[1] + 1
    start = float(np.median(np.log(rows.measured / rows.predicted(np.ones(count)))))

    def residuals(logs: _Array) -> _Array:
        # The last unknown is the common slowdown.
        errors = np.log(rows.predicted(np.exp(logs[:-1])) / rows.measured)
        return np.concatenate([errors, _PRIOR * (logs[:-1] - logs[-1])])

    found = least_squares(
        residuals, np.full(count + 1, start), loss="soft_l1", f_scale=_SCALE, bounds=(-14.0, 14.0)
    )
    return np.asarray(np.exp(found.x[:-1]))
