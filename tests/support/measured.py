"""Records of successful and failed cases of fictitious workloads, with every kind of metric."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

from analysis.frame import frame
from analysis.table import arranged
from bench.records.metrics import Value, as_json, from_samples, missing
from support.records import VALIDATOR, a_record

_NUMBERS = count(1)
KINDS = ("linear", "normalization", "activation", "softmax", "elementwise", "copy", "other")
MISSING_REASONS = {
    "energy_per_step_j": "no counter under /sys",
    "energy_above_idle_per_step_j": "no counter under /sys",
    "mean_power_w": "no counter under /sys",
    "device_busy_pct": "no busy counter: there is no accelerator",
    "model_flop_utilization": "no sourced peak rate",
    "hardware_flop_utilization": "no sourced peak rate",
    "ratio_to_roofline": "no sourced peak rates",
    "kernel_launches": "no accelerator: operators run on the host",
}


def measured(
    tokens: int,
    workload: str = "fold",
    series: str | None = None,
    *,
    variant: str = "reference, float32",
    exponent: float = 2.5,
    calls: int = 1000,
    ranks: int = 1,
    steps: int = 7,
    device: Mapping[str, str] | None = None,
    **more,
) -> dict:
    """Return a valid record of a successful case.

    Args:
        tokens: Problem size.
        workload: Name of the workload.
        series: Label of the series; by default the name of the workload.
        variant: Label of the variant.
        exponent: Exponent of the growth of step time with tokens.
        calls: Operator calls per step.
        ranks: Number of ranks.
        steps: Number of timed steps.
        device: Vendor, name and kind of an accelerator, which has every metric; None for a CPU.
        more: Other fields of the record.
    """
    number = next(_NUMBERS)
    phases = {"data": 0.05, "forward": 0.3, "backward": 0.6, "optimizer": 0.05}
    if ranks > 1:
        phases |= {"all_reduce": 0.1}
    usual = 1e-6 * tokens**exponent
    jitter = [1 + 0.02 * (3 * k % 5) for k in range(steps)]
    peak = {
        **{"parameters": 4_000_000, "optimizer": 8_000_000, "gradients": 4_000_000},
        **{"inputs": 100 * tokens, "activations": 3000 * tokens**2, "temporaries": 500 * tokens**2},
    }
    by_kind = {kind: calls // 2 ** (k + 1) for k, kind in enumerate(KINDS)}
    samples = [usual * factor for factor in jitter]
    values = {
        "step_time_s": from_samples(samples, "m"),
        "achieved_flops": Value(1e9 * tokens**0.2, "m"),
        "cpu_busy_pct": Value(97.0, "m"),
        "peak_resident_bytes": Value(sum(peak.values()) + 5_000_000, "m"),
        "peak_tracked_bytes": Value(sum(peak.values()), "m", quality="counted"),
        "operator_calls": Value(sum(by_kind.values()), "m", quality="counted"),
    }
    if ranks > 1:
        values["step_time_s"] = replace(
            values["step_time_s"], ranks=tuple(samples[0] * (1 + 0.1 * k) for k in range(ranks))
        )
    values |= {
        f"phase_time_s.{phase}": from_samples([share * factor for factor in samples], "m")
        for phase, share in phases.items()
    }
    values |= {f"peak_tracked_bytes.{state}": Value(n, "m") for state, n in peak.items()}
    values |= {f"operator_calls.{kind}": Value(n, "m") for kind, n in by_kind.items()}
    if device is None:
        values |= {name: missing(reason) for name, reason in MISSING_REASONS.items()}
    else:
        values |= {
            "peak_allocated_bytes": Value(sum(peak.values()), "m"),
            "energy_per_step_j": Value(300 * usual, "m"),
            "energy_above_idle_per_step_j": Value(200 * usual, "m"),
            "mean_power_w": Value(300.0, "m"),
            "device_busy_pct": Value(80.0, "m"),
            "model_flop_utilization": Value(0.31, "m"),
            "hardware_flop_utilization": Value(0.4, "m"),
            "ratio_to_roofline": Value(2.5, "m"),
            "kernel_launches": Value(sum(by_kind.values()), "m"),
        }
        values |= {f"kernel_launches.{kind}": Value(n, "m") for kind, n in by_kind.items()}
    modules = {f"trunk.module_{k}": (10 - k) * 100 * tokens**2 for k in range(10)}
    labels = {"tokens": tokens, "series": series or workload, "variant": variant}
    digits = f"{number:020x}"
    record = a_record(
        number,
        "ok",
        cell_id=digits,
        facts=FACTS,
        workload={
            **{"name": workload, "config": {"tokens": tokens}, "config_sha256": digits},
            **{"labels": labels, "inputs": {}, "source_sha256": None, "ranks": ranks},
        },
        metrics=as_json(values),
        breakdown={"activation_bytes_by_module": modules | {"": 50 * tokens**2}},
    )
    record["devices"] = [record["devices"][0] | dict(device or {}) for _ in range(ranks)]
    record |= more
    VALIDATOR.validate(record)
    return record


def failed(tokens: int, status: str, **more) -> dict:
    """Return a valid record of a failed case, otherwise like `measured`."""
    record = measured(tokens, **more)
    lost = {"facts": None, "metrics": {}, "breakdown": {}}
    record |= lost | {"status": status, "reason": "it <grew>"}
    VALIDATOR.validate(record)
    return record


def table_of(records):
    """Return the DataFrame of records, in the order of views."""
    return arranged(frame(records))


FACTS = {
    **{"parameters": 10, "components": {}, "forward_flops": 10, "forward_flops_by_component": {}},
    **{"step_flops": 30, "arithmetic": "float32", "minimum_bytes": 10, "notes": []},
    **{"exponentials": 0, "instructions": 0},
}
