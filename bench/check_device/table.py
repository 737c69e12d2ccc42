"""Closing table of a device check, from its records and the states of its stages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.accuracy import ALLOWED
from bench.check_device.operators import configuration_of
from bench.check_device.progress import StageState
from bench.check_device.recorder import SWEEP
from bench.check_device.supervisor import stage_line
from bench.records.record import Record
from workloads.operators import OperatorCase

_BASELINES = f"{SWEEP}.baselines"


# Seconds by quantity and tokens, and by system.
Published = Mapping[tuple[str, int], Mapping[str, float]]


def report_lines(
    states: Mapping[str, StageState],
    records: Sequence[Record],
    published: Published | None = None,
) -> list[str]:
    """Return the lines of the table.

    Args:
        states: State of each stage, in order.
        records: Records of the check.
        published: Published numbers of other systems.
    """
    sections = (
        [stage_line(name, state) for name, state in states.items()],
        _compilation(states.get("compilation")),
        _calibration(states.get("calibration")),
        _accuracy(records),
        _kernels(records),
        _baselines(records),
        _published(states.get("published"), published or {}),
        _tuning(states.get("tuning")),
        _step(states.get("step")),
        _communication(states.get("communication")),
    )
    lines: list[str] = []
    for section in sections:
        if section:
            lines += ["", *section] if lines else section
    return lines


def _of(records: Iterable[Record], stage: str) -> list[Record]:
    return [record for record in records if record.sweep == f"{SWEEP}.{stage}"]


def _compilation(state: StageState | None) -> list[str]:
    if state is None or "hits" not in state.found:
        return []
    compilation = state.found
    lines = [
        f"kernels: {compilation['hits']} from the cache, {len(compilation['misses'])} compiled in "
        f"{compilation['seconds']:.1f} s"
    ]
    return lines + [f"  {name} did not run: {why}" for name, why in compilation["failed"].items()]


def _calibration(state: StageState | None) -> list[str]:
    if state is None or "rates" not in state.found:
        return []
    rates, idle = state.found["rates"], state.found["idle_power_w"]
    rows = [
        ("copy in device memory", rates["bytes_s"], 1e9, "GB/s"),
        ("copy in the L2 cache", rates["l2_bytes_s"], 1e9, "GB/s"),
        ("exponentials", rates["exponentials_s"], 1e12, "T/s"),
        *((f"{n} matrix product", rate, 1e12, "TFLOP/s") for n, rate in rates["flops"].items()),
        ("energy counter's tick", state.found["energy_counter_tick_s"], 1e-3, "ms"),
        ("idle power before", idle["before"], 1, "W"),
        ("idle power after", idle["after"], 1, "W"),
    ]
    return [
        f"{name:<24} "
        + (f"{value / factor:10.4g} {unit}" if isinstance(value, int | float) else _absent(value))
        for name, value, factor, unit in rows
    ]


def _absent(reason: str | None) -> str:
    return f"not measured{f': {reason}' if reason else ''}"


def _accuracy(records: Sequence[Record]) -> list[str]:
    compared = [r for r in _of(records, "accuracy") if r.value("error_ratio") is not None]
    repeated = [r for r in _of(records, "accuracy") if r.value("differing_numbers") is not None]
    if not compared and not repeated:
        return []
    lines = []
    if compared:
        worst = max(compared, key=lambda r: r.value("error_ratio") or 0.0)
        config = configuration_of(worst)
        lines.append(
            f"accuracy: {len(compared)} comparisons with float64; the largest error is "
            f"{worst.value('error_ratio'):.2f} times plain PyTorch's ({ALLOWED:g} allowed), of "
            f"{config.operator} at {config.tokens} tokens"
        )
    if repeated:
        differing = [r for r in repeated if r.value("differing_numbers")]
        names = ", ".join(configuration_of(r).operator for r in differing)
        agreement = f"differ in {names}" if names else "are equal in every bit"
        lines.append(f"two runs of {len(repeated)} operators {agreement}")
    return lines


def _kernels(records: Sequence[Record]) -> list[str]:
    lines = []
    for record in _of(records, "kernels"):
        label = _name(configuration_of(record))
        if record.status != "ok":
            lines.append(f"{label} {record.status}: {record.reason}")
            continue
        times = (_ms(record.value(label)) for label in ("device_time_s", "step_time_s"))
        ratio = record.value("ratio_to_roofline")
        lines.append(f"{label} {' '.join(times)} {'-' if ratio is None else f'{ratio:.2f}':>9}")
    if not lines:
        return []
    head = (
        f"{'kernel':<38} {'N':>5} {'passes':<16} {'device ms':>10} {'eager ms':>10} {'× bound':>9}"
    )
    return [head, *lines]


def _name(config: OperatorCase) -> str:
    passes = "forward+backward" if config.backward else "forward"
    return f"{config.operator:<38} {config.tokens:>5} {passes:<16}"


def _ms(seconds: float | None) -> str:
    return f"{'-' if seconds is None else f'{1e3 * seconds:.3f}':>10}"


def _baselines(records: Sequence[Record]) -> list[str]:
    kernel_times = {_case(r): _time(r) for r in _of(records, "kernels") if r.status == "ok"}
    lines = []
    for record in _of(records, "baselines"):
        config = configuration_of(record)
        name = f"{_name(config)} {config.backend:<15}"
        time, kernel_time = _time(record), kernel_times.get(_case(record))
        if time is None:
            lines.append(f"{name} {record.status}: {record.reason}")
        else:
            ratio = f"{time / kernel_time:.2f} times ours" if kernel_time else ""
            lines.append(f"{name} {_ms(time)} {ratio}".rstrip())
    return ["baselines", *lines] if lines else []


def _case(record: Record) -> tuple[Any, ...]:
    config = configuration_of(record)
    return config.operator, config.tokens, config.backward, config.preset


def _time(record: Record) -> float | None:
    return record.value("device_time_s") or record.value("step_time_s")


def _published(state: StageState | None, published: Published) -> list[str]:
    """Return our times beside the published ones of the same quantity and size."""
    lines = []
    for quantity, times in (state.found.get("times", {}) if state else {}).items():
        for tokens, seconds in times.items():
            lines.append(f"{quantity:<44} {tokens:>5} {_ms(seconds)} ours")
            for system, value in published.get((quantity, int(tokens)), {}).items():
                lines.append(f"{'':<44} {'':>5} {_ms(value)} published: {system}")
    return ["timed as published (ms)", *lines] if lines else []


def _tuning(state: StageState | None) -> list[str]:
    kernels = state.found.get("kernels", ()) if state else ()
    return [
        f"tuned {kernel['kernel']} {kernel['bucket']}: {1e6 * kernel['shipped_s']:.1f} µs shipped, "
        f"{1e6 * kernel['best_s']:.1f} µs at best"
        for kernel in kernels
    ]


def _step(state: StageState | None) -> list[str]:
    if state is None or not state.found:
        return []
    figures = [f"{name} {value:.4g}" for name, value in state.found.items() if value is not None]
    return [f"step: {', '.join(figures)}"] if figures else []


def _communication(state: StageState | None) -> list[str]:
    collectives = state.found.get("collectives", ()) if state else ()
    return [
        f"{collective['operation']:<16} {collective['bytes'] / 2**20:>8g} MiB "
        f"{collective['bus_bytes_s'] / 1e9:>8.3g} GB/s on the bus, "
        f"{'right' if collective['equal'] else 'WRONG'}"
        for collective in collectives
    ]
