"""``foldperf describe``."""

import argparse
from dataclasses import asdict

from bench.cli import options

SUMMARY = "print the exact costs of a workload: parameters, FLOPs, bytes, by component"
EXAMPLE = "foldperf describe alphafold3-trunk --preset full --tokens 768 --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the workload and its axes, each an option of its own name."""
    parser.add_argument("workload", help="see 'foldperf list'")
    parser.add_argument(
        "axes",
        nargs=argparse.REMAINDER,
        metavar="--AXIS VALUE",
        help="any axis of the workload; --json prints JSON for programs",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the facts."""
    from workloads.catalogue import catalogue

    workload = catalogue()[arguments.workload]
    as_json = "--json" in arguments.axes
    words = [word for word in arguments.axes if word != "--json"]
    config = workload.configure(options.parse_axes(words))
    axes = workload.values(config)
    facts = workload.static_costs(config)
    if as_json:
        options.print_json({"workload": workload.name, "config": axes, **asdict(facts)})
        return 0
    print(f"{workload.name}: {' '.join(f'{name}={value}' for name, value in axes.items())}")
    print(f"{'component':<20} {'parameters':>14} {'forward GFLOP':>16}")
    for name, count in facts.components.items():
        flops = facts.forward_flops_by_component.get(name, 0)
        print(f"{name:<20} {count:>14,} {flops / 1e9:>16,.3f}")
    print(f"{'total':<20} {facts.parameters:>14,} {facts.forward_flops / 1e9:>16,.3f}")
    print(f"a step: {facts.step_flops / 1e12:,.3f} TFLOP, at least ", end="")
    print(f"{facts.minimum_bytes / 1e9:,.3f} GB moved")
    for note in facts.notes:
        print(f"  {note}")
    return 0
