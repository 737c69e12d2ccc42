"""Stage ``accuracy``: every operator against float64, and twice for equal bits."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch

from bench.accuracy import (
    ALLOWED,
    NotServedError,
    as_dtype,
    compare,
    differing_numbers,
    draw_arguments,
    in_float32,
    results_on,
)
from bench.check_device.check import Check, FailedError, Item
from bench.check_device.operators import BF16, FLOAT32, SINGLE_OPERATOR, kernel_operators
from bench.check_device.recorder import Measured
from bench.check_device.timing import time_operator
from bench.records.metrics import Value, as_json
from refsys.ops.backend import OPERATORS
from workloads.errors import UnsupportedError
from workloads.operators import OperatorCase

T = TypeVar("T")

_ERROR = "largest over outputs and gradients, against float64, by plain PyTorch's and a rounding"
# A later stage measures times; few samples suffice here.
_SAMPLES = 3
_BITS = "outputs and gradients of two runs"


def run(check: Check) -> dict[str, Any]:
    """Check every operator, and return those that are wrong or could not run.

    Raises:
        FailedError: an operator is less exact than it must be, differs from run to run, or crashes.
    """
    check.need_accelerator("kernels")
    items = [
        _item(check, operator, tokens, bits=tokens == check.sizes.bits)
        for tokens in (*check.sizes.accuracy, check.sizes.bits)
        for operator in kernel_operators(check)
    ]
    wrong = []
    for item, record in zip(items, check.run(items), strict=True):
        ratio, differing = record.value("error_ratio"), record.value("differing_numbers")
        inexact = "error_ratio" in record.metrics and (ratio is None or ratio > ALLOWED)
        if record.status in {"crash", "oom"} or inexact or differing:
            wrong.append(item.title)
    if wrong:
        raise FailedError(f"wrong: {', '.join(wrong)}", {"wrong": wrong})
    return {"checked": len(items)}


def _item(check: Check, operator: str, tokens: int, *, bits: bool) -> Item:
    values = {
        "operator": operator,
        "preset": check.sizes.preset,
        "tokens": tokens,
        "precision": BF16,
        "backend": check.sizes.backend,
    }
    workload = check.workload(SINGLE_OPERATOR)
    config = workload.configure(values)
    measure = _measure_bits if bits else _measure_error
    what = "equal bits" if bits else "against float64"
    title = f"{operator} {tokens} {what}"
    return Item(title, workload.name, config, partial(measure, check, config))


def _measure_error(check: Check, config: OperatorCase) -> Measured:
    operator, backend = OPERATORS[config.operator], config.backend
    tensors, options = _arguments(check, config)
    accuracy, precision = _in_first_dtype_served(
        lambda dtype: compare(operator, tensors, options, dtype, backend)
    )
    exact = accuracy.ratio <= ALLOWED
    flags = () if exact else (f"{accuracy.worst} is not as exact as it must be",)
    ratio = Value(accuracy.ratio, f"{_ERROR}; in {precision}", quality="counted", flags=flags)
    timed = time_operator(check, replace(config, precision=precision), _SAMPLES)
    return _with(
        timed, {"error_ratio": ratio}, {"worst_result": accuracy.worst, "dtype": precision}
    )


def _measure_bits(check: Check, config: OperatorCase) -> Measured:
    operator, backend = OPERATORS[config.operator], config.backend
    tensors, options = _arguments(check, config)
    upper = in_float32(options)

    def differing(dtype: torch.dtype) -> int:
        typed = [as_dtype(t, dtype) for t in tensors]
        return differing_numbers(
            *(results_on(operator, backend, typed, upper, dtype) for _ in range(2))
        )

    numbers, precision = _in_first_dtype_served(differing)
    timed = time_operator(check, replace(config, precision=precision), _SAMPLES)
    value = Value(numbers, _BITS, n=2, quality="counted")
    return _with(timed, {"differing_numbers": value}, {"dtype": precision})


def _in_first_dtype_served(run: Callable[[torch.dtype], T]) -> tuple[T, str]:
    """Return the result of `run` in bfloat16, or in float32 where there is no such kernel.

    Raises:
        UnsupportedError: neither dtype has a kernel.
    """
    try:
        return run(torch.bfloat16), BF16
    except NotServedError:
        pass
    try:
        return run(torch.float32), FLOAT32
    except NotServedError as error:
        raise UnsupportedError(str(error)) from None


def _arguments(check: Check, config: OperatorCase) -> tuple[list[Any], dict[str, Any]]:
    return draw_arguments(
        config.operator,
        config.preset,
        config.tokens,
        check.device.torch_device,
    )


def _with(timed: Measured, values: dict[str, Value], notes: dict[str, Any]) -> Measured:
    """Return the times of an operator with what was compared."""
    return Measured(
        {**timed.metrics, **as_json(values)},
        timed.facts,
        notes={**timed.notes, **notes},
        protocol=timed.protocol,
    )
