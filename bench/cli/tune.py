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
    """What to tune, and how long."""
    parser.add_argument(
        "--rounds",
        type=options.at_least(1),
        default=10,
        help="how often two settings take turns (default: 10)",
    )
    options.add_store(parser)
    options.add_json(parser)
    parser.add_argument("workload", help="see 'foldperf list'; one whose steps are all alike")
    parser.add_argument(
        "axes", nargs=argparse.REMAINDER, metavar="--AXIS VALUE", help="any axis of the workload"
    )


def run(arguments: argparse.Namespace) -> int:
    """Status 0 when all is tuned, 2 for a bad request or where no kernel can run."""
    from bench.devices import find_device
    from bench.progress import Progress
    from bench.tuning import check_device, keys_of, tune
    from workloads.catalogue import catalogue
    from workloads.workload import Setting

    workload, device = catalogue()[arguments.workload], find_device()
    values = options.parse_axes(arguments.axes)
    if any(axis.name == "backend" for axis in workload.axes):
        values.setdefault("backend", "triton")
    config = workload.configure(values)
    check_device(device)
    setting = Setting(device=device.torch_device, store=options.store(arguments))
    program = workload.build(config, setting)
    found = []
    with Progress(len(keys_of(program)), "kernels") as progress:
        progress.start(workload.name)
        for each in tune(program, device, arguments.rounds):
            found.append(each)
            how = "as shipped" if each.options == each.shipped else f"{each.speedup:.2f} times"
            progress.finish(f"{each.key.kernel} {each.key.bucket}: {how}, {each.tried} tried")
            progress.start("tuning")
    if arguments.json:
        options.print_json([asdict(each) | {"key": each.key._asdict()} for each in found])
    else:
        _print(found)
    return 0


def _print(found: "list[Tuned]") -> None:
    width = max((len(each.key.kernel) for each in found), default=0)
    print(f"{'kernel':<{width}}  bucket         tried   shipped µs     best µs  options")
    for each in found:
        changed = {n: v for n, v in each.options.items() if each.shipped[n] != v}
        text = ", ".join(f"{n}={v}" for n, v in changed.items()) or "as shipped"
        times = f"{1e6 * each.shipped_s:>12.1f} {1e6 * each.best_s:>11.1f}"
        print(f"{each.key.kernel:<{width}}  {each.key.bucket:<13} {each.tried:>6} {times}  {text}")
