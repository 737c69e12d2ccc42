"""Stage ``kernels``: each kernel forward and backward, by graph replay and in eager mode."""

from typing import Any

from bench.check_device.check import Check, FailedError
from bench.check_device.operators import BF16, HEAVIEST, kernel_operators
from bench.check_device.timing import operator_item


def run(check: Check) -> dict[str, Any]:
    """Time the operators, the heaviest at every size before the others at the smallest.

    Raises:
        FailedError: a case crashed.
    """
    check.need_accelerator("kernels")
    first, *larger = check.sizes.kernels
    operators = kernel_operators(check)
    heavy = [name for name in operators if name in HEAVIEST]
    light = [name for name in operators if name not in HEAVIEST]
    pairs = [(name, first) for name in heavy]
    pairs += [(name, tokens) for tokens in larger for name in heavy]
    pairs += [(name, first) for name in light]
    items = [
        operator_item(check, name, tokens, check.sizes.backend, backward=backward, precision=BF16)
        for name, tokens in pairs
        for backward in (False, True)
    ]
    records = check.run(items)
    crashed = [
        item.title for item, record in zip(items, records, strict=True) if record.status == "crash"
    ]
    if crashed:
        raise FailedError(f"crashed: {', '.join(crashed)}", {"crashed": crashed})
    return {"timed": sum(record.status == "ok" for record in records)}
