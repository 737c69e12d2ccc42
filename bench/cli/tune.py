"""``foldperf tune``."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.tuning import Tuned

SUMMARY = "find faster launch options for the kernels, on this device"
EXAMPLE = "foldperf tune --operator transition --operator triangle_attention --tokens 384"


def configure(parser: argparse.ArgumentParser) -> None:
    """What to tune."""
    parser.add_argument(
        "--operator",
        action="append",
        metavar="NAME",
        help="an operator that has kernels; again for several (default: all)",
    )
    parser.add_argument("--preset", default="full", help="model whose widths it has")
    parser.add_argument(
        "--tokens",
        type=options.at_least(0),
        default=0,
        help="tokens; 0 is the preset's own (default: 0)",
    )
    parser.add_argument("--precision", default="bfloat16", help="dtype table (default: bfloat16)")
    parser.add_argument(
        "--rounds",
        type=options.at_least(1),
        default=10,
        help="how often two settings take turns (default: 10)",
    )
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Status 0 when all is tuned, 2 for a bad request or where no kernel can run."""
    from bench.devices import find_device
    from bench.errors import UsageError
    from bench.progress import Progress
    from bench.tuning import check_device, tune
    from refsys.ops.backend import OPERATORS
    from workloads.catalogue import catalogue
    from workloads.workload import Setting

    workload, device = catalogue()["operators"], find_device()
    able = sorted(name for name, each in OPERATORS.items() if "triton" in each.kernels)
    for name in arguments.operator or ():
        if name not in able:
            raise UsageError(f"operator {name!r} has no kernels; choose of {', '.join(able)}")
    check_device(device)
    chosen, found = arguments.operator or able, []
    setting = Setting(device=device.torch_device, store=Path())
    with Progress(len(chosen), "operators") as progress:
        for name in chosen:
            progress.start(name)
            config = workload.configure(
                {
                    "operator": name,
                    "preset": arguments.preset,
                    "tokens": arguments.tokens,
                    "precision": arguments.precision,
                    "backend": "triton",
                }
            )
            program = workload.build(config, setting)
            results = list(tune(program, device, arguments.rounds))
            found += results
            faster = sum(each.options != each.shipped for each in results)
            progress.finish(f"{name}: {len(results)} kernels, {faster} made faster")
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
