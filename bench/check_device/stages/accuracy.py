"""Stage ``accuracy``: every operator against float64, and twice for equal bits."""

from collections.abc import Mapping
from functools import partial
from typing import Any

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
from bench.check_device.operators import BF16, FLOAT32, kernel_operators
from bench.check_device.recorder import Measured
from bench.check_device.timing import time_operator
from bench.metrics import Value, as_json
from refsys.ops.backend import OPERATORS
from workloads.errors import UnsupportedError

_ERROR = "largest over outputs and gradients, against float64, by plain PyTorch's and a rounding"
# Times are the next stage's matter: a few show what a failure costs.
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
        metrics = record["metrics"]
        ratio = metrics.get("error_ratio", {}).get("value")
        differing = metrics.get("differing_numbers", {}).get("value")
        inexact = "error_ratio" in metrics and (ratio is None or ratio > ALLOWED)
        if record["status"] in {"crash", "oom"} or inexact or differing:
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
    config = check.workload("operators").configure(values)
    measure = _measure_bits if bits else _measure_error
    what = "equal bits" if bits else "against float64"
    return Item(f"{operator} {tokens} {what}", "operators", config, partial(measure, check, config))


def _measure_error(check: Check, config: Mapping[str, Any]) -> Measured:
    operator = OPERATORS[str(config["operator"])]
    tensors, options = _arguments(check, config)
    found, dtype = None, ""
    for dtype in (BF16, FLOAT32):
        try:
            found = compare(
                operator, tensors, options, getattr(torch, dtype), str(config["backend"])
            )
            break
        except NotServedError as error:
            reason = str(error)
    if found is None:
        raise UnsupportedError(reason)
    timed = time_operator(check, dict(config) | {"precision": dtype}, _SAMPLES)
    ratio = Value(found.ratio, f"{_ERROR}; in {dtype}", quality="counted")
    flags = () if found.ratio <= ALLOWED else (f"{found.worst} is not as exact as it must be",)
    ratio = Value(ratio.value, ratio.method, quality="counted", flags=flags)
    return _with(timed, {"error_ratio": ratio}, {"worst_result": found.worst, "dtype": dtype})


def _measure_bits(check: Check, config: Mapping[str, Any]) -> Measured:
    operator = OPERATORS[str(config["operator"])]
    tensors, options = _arguments(check, config)
    runs = None
    for dtype in (torch.bfloat16, torch.float32):
        typed = [as_dtype(t, dtype) for t in tensors]
        try:
            runs = [
                results_on(operator, str(config["backend"]), typed, in_float32(options), dtype)
                for _ in range(2)
            ]
            break
        except NotServedError as error:
            reason = str(error)
    if runs is None:
        raise UnsupportedError(reason)
    precision = str(dtype).removeprefix("torch.")
    timed = time_operator(check, dict(config) | {"precision": precision}, _SAMPLES)
    differing = Value(differing_numbers(*runs), _BITS, n=2, quality="counted")
    return _with(timed, {"differing_numbers": differing}, {"dtype": precision})


def _arguments(check: Check, config: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    return draw_arguments(
        str(config["operator"]),
        str(config["preset"]),
        int(config["tokens"]),
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
