"""Stage ``baselines``: other implementations of the same operators.

A package that needs an environment of its own is timed by that environment's interpreter, in a
process that lasts for its cases; the record has that interpreter's versions.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from bench.check_device.check import Check, Item
from bench.check_device.foreign import measure_elsewhere
from bench.check_device.operators import BF16, HEAVIEST
from bench.check_device.timing import operator_item

_ATTENTION = "triangle_attention"


def run(check: Check) -> dict[str, Any]:
    """Time every baseline; one that is not installed has a record that says so."""
    check.need_accelerator("baselines")
    cases = [(_ATTENTION, tokens, backend, backward) for tokens, backend, backward in _all(check)]
    if "compiled" in check.sizes.baseline_backends:
        # Compilation takes longest, so these cases come last, those with backward first.
        cases += [
            (operator, tokens, "compiled", backward)
            for backward in (True, False)
            for tokens in check.sizes.baselines
            for operator in HEAVIEST
            if operator != _ATTENTION
        ]
    items = [_item(check, *case) for case in cases]
    records = check.run(items)
    return {"timed": sum(record.status == "ok" for record in records)}


def _all(check: Check) -> Iterator[tuple[int, str, bool]]:
    """Yield sizes, backends and passes of triangle attention."""
    for tokens in check.sizes.baselines:
        for backward in (False, True):
            for backend in check.sizes.baseline_backends:
                yield tokens, backend, backward


def _item(check: Check, operator: str, tokens: int, backend: str, backward: bool) -> Item:
    item = operator_item(check, operator, tokens, backend, backward=backward, precision=BF16)
    interpreter = check.interpreters.get(backend)
    if interpreter is None:
        return item
    measure = partial(measure_elsewhere, check, item.config, interpreter)
    return replace(item, measure=measure, salt=str(interpreter))
