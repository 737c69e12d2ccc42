"""What a step communicates between ranks."""

from collections.abc import Callable

from bench.records.metrics import Value, Values, missing
from bench.run.ranks import Ranks
from refsys.parallel.collectives import traffic

COLLECTIVE = ("collective_calls", "collective_bytes")


def count_collectives(step: Callable[[], object], ranks: Ranks) -> Values:
    """``collective_calls`` and ``collective_bytes`` of a step."""
    if ranks.count == 1:
        return dict.fromkeys(COLLECTIVE, missing("one rank communicates with nobody"))
    before = traffic()
    step()
    found = traffic().since(before)
    if not found.calls:
        why = missing("no collective of refsys.parallel.collectives was called")
        return dict.fromkeys(COLLECTIVE, why)
    method = "counted where collectives are called, over one step"
    return {
        "collective_calls": Value(found.calls, method, quality="counted"),
        "collective_bytes": Value(found.nbytes, method, quality="counted"),
    }
