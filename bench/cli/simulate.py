"""``foldperf simulate``."""

import argparse
import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.cli import options

if TYPE_CHECKING:
    from bench.records.record import Record
    from bench.simulation.predicted import Target
    from bench.simulation.traces import Simulated, SimulatedCase

SUMMARY = "trace cases of any size and number of ranks, computing nothing"
EXAMPLE = (
    "foldperf simulate alphafold3 --preset full --tokens 3072 --context-ranks 32 --json\n"
    "  foldperf simulate alphafold3 --preset full --tokens 384 768 --context-ranks 1 4"
)
TAKES_AXES = True
_MOST_JOBS = 8


class _Column(NamedTuple):
    """Column of the table: heading, metric, size of a unit, digits after the point."""

    head: str
    metric: str
    unit: float
    digits: int


_COLUMNS = (
    _Column("peak GiB", "peak_tracked_bytes", 2**30, 2),
    _Column("TFLOP", "hardware_flops", 1e12, 2),
    _Column("TB moved", "tensor_bytes", 1e12, 3),
    _Column("launches", "kernel_launches", 1, 0),
    _Column("calls", "collective_calls", 1, 0),
    _Column("sent GiB", "collective_bytes", 2**30, 2),
    _Column("s", "predicted_step_time_s", 1, 3),
    _Column("J", "predicted_energy_per_step_j", 1, 0),
)
_PREDICTED = frozenset({"predicted_step_time_s", "predicted_energy_per_step_j"})


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the workload and the options of the simulation; other words are axes."""
    parser.add_argument("workload", help="see 'foldperf list'; its axes follow as --AXIS VALUE ...")
    parser.add_argument(
        "--data-ranks",
        nargs="+",
        type=options.at_least(1),
        default=[1],
        metavar="N",
        help="ranks, or groups of context ranks, that average their gradients (default: 1)",
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        help="predict time and energy on this device, as h200 (see docs/time-model.md)",
    )
    parser.add_argument(
        "--ranks-per-node",
        type=options.at_least(1),
        metavar="N",
        help="ranks of a node (default: as many as the device's link connects)",
    )
    parser.add_argument(
        "--jobs",
        type=options.at_least(1),
        metavar="N",
        help="processes (default: the cores)",
    )
    parser.add_argument(
        "--no-cache",
        action="store_true",
        help="neither read nor write traces in the cache folder",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="DIR",
        help="append records to DIR/runs/simulation (default: none are written)",
    )
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Simulate the product of the axes; print a table or JSON."""
    from bench.progress import Progress
    from bench.simulation.predicted import Target
    from bench.simulation.traces import simulate

    name = arguments.device
    target = Target.named(name, arguments.ranks_per_node) if name else None
    cases = list(_cases(arguments.workload, arguments.others, arguments.data_ranks))
    jobs = options.processes(arguments.jobs, _MOST_JOBS)
    with Progress(len(cases), "simulation") as progress:
        costs = simulate(
            cases,
            jobs,
            remember=not arguments.no_cache,
            on_case=lambda case: progress.finish(_title(case)),
        )
    records = [_record(case, cost, target) for case, cost in zip(cases, costs, strict=True)]
    if arguments.results:
        _append(arguments.results, records)
    if arguments.json:
        options.print_json([_for_programs(record) for record in records])
    else:
        _print_table(cases, records)
    return 0


def _record(case: "SimulatedCase", costs: "Simulated", target: "Target | None") -> "Record":
    from bench.simulation.predicted import predicted_values, prediction_notes
    from bench.simulation.simulated import simulated_record

    if target is None:
        return simulated_record(case, costs)
    time, energy = target.predict(costs.trace, case.exchange_chunks)
    return simulated_record(
        case,
        costs,
        device=target.recorded(),
        predicted=predicted_values(time, energy),
        notes=prediction_notes(time),
    )


def _cases(name: str, words: list[str], data_ranks: Iterable[int]) -> "Iterable[SimulatedCase]":
    """Yield the product of the axes' values and the numbers of data ranks."""
    from bench.simulation.traces import SimulatedCase
    from workloads.catalogue import catalogue

    workload = catalogue()[name]
    axes = options.parse_axis_values(words)
    for values in itertools.product(*axes.values()):
        config = workload.configure(dict(zip(axes, values, strict=True)))
        for count in data_ranks:
            yield SimulatedCase(name, config, count)


def _title(case: "SimulatedCase") -> str:
    from workloads.catalogue import catalogue

    title = catalogue()[case.workload].title(case.config)
    return title + (f" data_ranks={case.data_ranks}" if case.data_ranks > 1 else "")


def _append(folder: Path, records: "list[Record]") -> None:
    from bench.records.record_file import RECORDS, RecordFile
    from bench.simulation.simulated import SWEEP

    path = folder / "runs" / SWEEP / RECORDS
    with RecordFile(path).locked() as file:
        known = {record.key for record in file.records()}
        for record in records:
            if record.key not in known:
                file.append(record)
    print(f"records in {path}", file=sys.stderr)


def _for_programs(record: "Record") -> dict[str, Any]:
    """Return the part of a record that depends on the case and the source alone."""
    table = record.as_dict()
    parts = ("key", "cell_id", "workload", "devices", "facts", "metrics", "breakdown", "notes")
    return {"method": table["notes"]["method"], **{part: table[part] for part in parts}}


def _print_table(cases: "list[SimulatedCase]", records: "list[Record]") -> None:
    predicted = any(record.value("predicted_step_time_s") for record in records)
    columns = [column for column in _COLUMNS if predicted or column.metric not in _PREDICTED]
    print("  ".join(f"{column.head:>10}" for column in columns) + "  case")
    for case, record in zip(cases, records, strict=True):
        values = ((column, record.value(column.metric)) for column in columns)
        texts = ("-" if v is None else f"{v / c.unit:,.{c.digits}f}" for c, v in values)
        print("  ".join(f"{text:>10}" for text in texts) + f"  {_title(case)}")
    if predicted:
        for flag in records[0].metrics["predicted_step_time_s"].flags:
            print(f"time and energy: {flag}")
    print("figures of one rank, traced with shapes alone; nothing was measured")
