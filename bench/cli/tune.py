"""``foldperf tune``."""

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.tuning import Tuned

SUMMARY = "find faster launch options for a workload's kernels, on this device"
EXAMPLE = "foldperf tune operators --operator transition --preset full --tokens 384"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the workload and the length of a comparison."""
    parser.add_argument(
        "--rounds",
        type=options.at_least(1),
        default=10,
        help="rounds in which two candidates alternate (default: 10)",
    )
    options.add_store(parser)
    options.add_json(parser)
    parser.add_argument(
        "workload", help="see 'foldperf list'; all steps of the workload must compute the same"
    )
    parser.add_argument(
        "axes", nargs=argparse.REMAINDER, metavar="--AXIS VALUE", help="any axis of the workload"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tune the kernels of a workload; status 2 for a bad request or if no kernel can run."""
    from bench.devices import find_device
    from bench.progress import Progress
    from bench.tuning import check_device, keys_of, tune
    from workloads.catalogue import catalogue
    from workloads.workload import ExecutionContext

    workload, device = catalogue()[arguments.workload], find_device()
    values = options.parse_axes(arguments.axes)
    if any(axis.name == "backend" for axis in workload.axes):
        values.setdefault("backend", "triton")
    config = workload.configure(values)
    check_device(device)
    setting = ExecutionContext(device=device.torch_device, store=options.store(arguments))
    program = workload.build(config, setting)
    results = []
    with Progress(len(keys_of(program)), "kernels") as progress:
        progress.start(workload.name)
        for tuned in tune(program, device, arguments.rounds):
            results.append(tuned)
            how = "as shipped" if tuned.options == tuned.shipped else f"{tuned.speedup:.2f} times"
            progress.finish(f"{tuned.key.kernel} {tuned.key.bucket}: {how}, {tuned.tried} tried")
            progress.start("tuning")
    if arguments.json:
        options.print_json([asdict(tuned) | {"key": tuned.key._asdict()} for tuned in results])
    else:
        _print(results)
    return 0


def _print(results: "list[Tuned]") -> None:
    width = max((len(tuned.key.kernel) for tuned in results), default=0)
    print(f"{'kernel':<{width}}  bucket         tried   shipped µs     best µs  options")
    for tuned in results:
        changed = {n: v for n, v in tuned.options.items() if tuned.shipped[n] != v}
        text = ", ".join(f"{n}={v}" for n, v in changed.items()) or "as shipped"
        times = f"{1e6 * tuned.shipped_s:>12.1f} {1e6 * tuned.best_s:>11.1f}"
        print(
            f"{tuned.key.kernel:<{width}}  {tuned.key.bucket:<13} {tuned.tried:>6} {times}  {text}"
        )
