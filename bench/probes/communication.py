"""Communication between ranks in a step."""

from collections.abc import Callable

from bench.records.metrics import Value, Values, missing
from bench.run.ranks import Ranks
from refsys.parallel.collectives import traffic

COLLECTIVE = ("collective_calls", "collective_bytes")


def count_collectives(step: Callable[[], object], ranks: Ranks) -> Values:
    """Run a step and return its ``collective_calls`` and ``collective_bytes``."""
    if ranks.count == 1:
        return dict.fromkeys(COLLECTIVE, missing("a single rank does not communicate"))
    before = traffic()
    step()
    communicated = traffic().since(before)
    if not communicated.calls:
        why = missing("no collective of refsys.parallel.collectives was called")
        return dict.fromkeys(COLLECTIVE, why)
    method = "counted where collectives are called, over one step"
    return {
        "collective_calls": Value(communicated.calls, method, quality="counted"),
        "collective_bytes": Value(communicated.nbytes, method, quality="counted"),
    }
