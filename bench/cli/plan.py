"""``foldperf plan``."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from bench.cli import options

if TYPE_CHECKING:
    from bench.simulation.plan import Candidate, Plan, Request

SUMMARY = "find configurations that fit a device: training and inference, predicted time and energy"
EXAMPLE = (
    "foldperf plan --tokens 3072 --device h200 --gpus 32\n"
    "  foldperf plan --tokens 1024 --device a100-80 h100 mi300x\n"
    "  foldperf plan --tokens 768 --device h100 --gpus 8 --goal training --stage fine_tuning_2"
)
TAKES_AXES = True
_MOST_JOBS = 8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the length, the devices and the goals; other words are axes of the workload."""
    parser.add_argument(
        "--tokens",
        type=options.at_least(1),
        required=True,
        metavar="N",
        help="tokens of an example",
    )
    parser.add_argument(
        "--device",
        nargs="+",
        metavar="NAME",
        help="devices of the table, as h200 (default: all that have a short name)",
    )
    parser.add_argument(
        "--gpus",
        type=options.at_least(1),
        default=0,
        metavar="N",
        help="number of devices (default: the fewest that suffice)",
    )
    parser.add_argument(
        "--goal",
        choices=("training", "inference", "both"),
        default="both",
        help="what to plan (default: both)",
    )
    parser.add_argument(
        "--ranks-per-node",
        type=options.at_least(1),
        metavar="N",
        help="devices of a node (default: as many as the device's link connects)",
    )
    parser.add_argument(
        "--jobs",
        type=options.at_least(1),
        metavar="N",
        help="processes that trace (default: the cores)",
    )
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a plan for each goal and device, also where nothing fits."""
    from bench.simulation.plan import make_plan
    from bench.simulation.predicted import Target
    from refsys.costs.devices import short_names

    names = arguments.device or list(short_names())
    targets = [Target.named(name, arguments.ranks_per_node) for name in names]
    requests = _requests(arguments, options.parse_axes(arguments.others))
    _trace_ahead(requests, arguments.jobs)
    plans = [make_plan(request, target) for request in requests for target in targets]
    if arguments.json:
        options.print_json([_as_json(plan) for plan in plans])
    else:
        for plan in plans:
            _print(plan)
        _print_summary(plans)
    return 0


def _requests(arguments: argparse.Namespace, axes: dict[str, object]) -> "list[Request]":
    """Return a request for each goal, with the axes that its workload has.

    Raises:
        UsageError: an axis belongs to none of the goals' workloads.
    """
    from bench.errors import UsageError
    from bench.simulation.plan import INFER, TRAIN, Request, planned_workload

    goal = arguments.goal
    goals = [TRAIN, INFER] if goal == "both" else [goal]
    workloads = {g: planned_workload(g) for g in goals}
    known = {g: {axis.name for axis in workload.axes} for g, workload in workloads.items()}
    for name in axes:
        if not any(name in names for names in known.values()):
            planned = " or ".join(workload.name for workload in workloads.values())
            raise UsageError(f"{name!r} is no axis of {planned}")
    return [
        Request(
            goal=g,
            tokens=arguments.tokens,
            devices=arguments.gpus,
            axes={name: str(value) for name, value in axes.items() if name in known[g]},
        )
        for g in goals
    ]


def _trace_ahead(requests: "list[Request]", jobs: int | None) -> None:
    """Fill the cache with the first traces of each number of ranks, in several processes."""
    from bench.progress import Progress
    from bench.simulation.plan import first_cases
    from bench.simulation.traces import trace_ahead

    cases = [case for request in requests for case in first_cases(request)]
    with Progress(len(cases), "traces") as progress:
        trace_ahead(cases, options.processes(jobs, _MOST_JOBS), lambda: progress.finish("traced"))


def _print(plan: "Plan") -> None:
    request, entry = plan.request, plan.target.entry
    memory = "unknown" if entry.memory_bytes is None else f"{entry.memory_bytes / 1e9:,.0f} GB"
    count = f"{request.devices} x " if request.devices else ""
    print(f"{request.goal}, {request.tokens:,} tokens, {count}{entry.name} ({memory})")
    heads = ("ranks", "groups", "GB", "s/step", "examples/h", "kJ/example")
    print("  " + "  ".join(f"{head:>10}" for head in heads) + "  configuration")
    for candidate in plan.candidates:
        numbers = (
            str(candidate.context_ranks),
            str(candidate.groups),
            f"{candidate.memory_bytes / 1e9:,.1f}",
            _number(candidate.step_s, 1, 2),
            _number(candidate.examples_h, 1, 1),
            _number(candidate.example_j, 1e3, 2),
        )
        print("  " + "  ".join(f"{n:>10}" for n in numbers) + f"  {_remark(candidate, plan)}")
    if plan.way_out:
        print(f"  nothing fits: {plan.way_out}")
    print()


def _remark(candidate: "Candidate", plan: "Plan") -> str:
    """Return the configuration of a candidate, and why it is or is not the choice."""
    if not candidate.fits:
        return f"{candidate.saving}: does not fit"
    words = []
    if candidate is plan.fastest:
        words.append("fastest")
    elif plan.fastest and plan.fastest.examples_h and candidate.examples_h:
        slower = plan.fastest.examples_h / candidate.examples_h - 1
        words.append(f"{100 * slower:.0f} % slower")
    if candidate is plan.thriftiest:
        words.append("least energy")
    if candidate.host_bytes:
        words.append(f"{candidate.host_bytes / 1e9:,.1f} GB of checkpoints on the host")
    return ", ".join([candidate.saving, *words])


def _print_summary(plans: "list[Plan]") -> None:
    """Print a line for each plan, and what the numbers rest on."""
    for plan in plans:
        best, request, name = plan.fastest, plan.request, plan.target.entry.name
        if best is None:
            print(f"{request.goal} of {request.tokens:,} tokens on {name}: {plan.way_out}")
            continue
        print(
            f"{request.goal} of {request.tokens:,} tokens on {name}: {best.devices} device(s), "
            f"{best.context_ranks} to an example, {best.memory_bytes / 1e9:,.1f} GB, "
            f"{_number(best.step_s, 1, 2)} s predicted"
        )
    print(
        "memory is traced, with an assumed 1 to 2 GiB and 5 % beside the tensors; times and "
        "energies are predicted (docs/time-model.md); nothing was measured",
        file=sys.stderr,
    )


def _number(value: float | None, unit: float, digits: int) -> str:
    return "-" if value is None else f"{value / unit:,.{digits}f}"


def _as_json(plan: "Plan") -> dict[str, Any]:
    from workloads.catalogue import catalogue

    def table(candidate: "Candidate | None") -> dict[str, Any] | None:
        if candidate is None:
            return None
        workload = catalogue()[candidate.case.workload]
        return {
            "workload": workload.name,
            "config": workload.values(candidate.case.config),
            "saving": candidate.saving,
            "context_ranks": candidate.context_ranks,
            "groups": candidate.groups,
            "peak_bytes": candidate.peak_bytes,
            "memory_bytes": candidate.memory_bytes,
            "host_bytes": candidate.host_bytes,
            "fits": candidate.fits,
            "predicted_step_time_s": candidate.step_s,
            "predicted_energy_per_step_j": candidate.step_j,
            "examples_per_hour": candidate.examples_h,
            "assumed_share": candidate.assumed,
        }

    return {
        "goal": plan.request.goal,
        "tokens": plan.request.tokens,
        "device": plan.target.entry.name,
        "device_memory_bytes": plan.target.entry.memory_bytes,
        "fastest": table(plan.fastest),
        "thriftiest": table(plan.thriftiest),
        "candidates": [table(candidate) for candidate in plan.candidates],
        "way_out": plan.way_out,
    }
