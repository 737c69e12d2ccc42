"""Communication between ranks in a step."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from bench.devices import Device
from bench.probes.utilization import shared_cores
from bench.records.metrics import Value, Values, flagged, from_samples, missing
from bench.run.ranks import Ranks
from refsys.parallel.collectives import traffic
from refsys.parallel.ledger import LEDGER

COLLECTIVE = ("collective_calls", "collective_bytes")
WAIT = "collective_wait_s"
_SINGLE = "a single rank does not communicate"
_NONE = "no collective of refsys.parallel.collectives was called"


class WaitProbe:
    """Times that the host waits for collective operations, step by step."""

    def __init__(self) -> None:
        self._first = traffic()
        self._readings = [self._first.waited]

    def read(self) -> None:
        """Note the end of a step."""
        self._readings.append(traffic().waited)

    def values(self, device: Device, ranks: Ranks) -> Values:
        """Return ``collective_wait_s``."""
        reason = ""
        if ranks.count == 1:
            reason = _SINGLE
        elif device.torch_device.type != "cpu":
            reason = "the streams of an accelerator wait for its collectives, not the host"
        elif not traffic().since(self._first).calls:
            reason = _NONE
        if reason:
            return {WAIT: missing(reason)}
        waits = [after - before for before, after in pairwise(self._readings)]
        method = "stopwatch around each wait, sum over a step, median"
        return flagged({WAIT: from_samples(waits, method)}, shared_cores(device, ranks))


def count_collectives(
    step: Callable[[], object], ranks: Ranks
) -> tuple[Values, dict[str, dict[str, int]]]:
    """Run a step and count its collective operations.

    Returns:
        ``collective_calls`` and ``collective_bytes``, and a breakdown: bytes by operator.
    """
    if ranks.count == 1:
        return dict.fromkeys(COLLECTIVE, missing(_SINGLE)), {}
    before = LEDGER.entries()
    step()
    counted = {
        key: total.since(before[key]) if key in before else total
        for key, total in LEDGER.entries().items()
    }
    calls = sum(part.calls for part in counted.values())
    if not calls:
        return dict.fromkeys(COLLECTIVE, missing(_NONE)), {}
    method = "counted where collectives are called, over one step"
    by_operator: Counter[str] = Counter()
    for key, part in counted.items():
        by_operator[key.operator] += part.nbytes
    values = {
        "collective_calls": Value(calls, method, quality="counted"),
        "collective_bytes": Value(by_operator.total(), method, quality="counted"),
    }
    return values, {"collective_bytes": dict(by_operator)}
