"""``foldperf list``."""

import argparse

from bench.cli import options

SUMMARY = "list workloads with their axes, and sweeps"
EXAMPLE = "foldperf list"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the form of the output."""
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print workloads, axes and sweeps."""
    from bench.run.sweep import read_sweep, shipped_sweeps
    from workloads.catalogue import catalogue

    workloads = catalogue()
    sweeps = {name: read_sweep(path, workloads) for name, path in shipped_sweeps().items()}
    if arguments.json:
        options.print_json(
            {
                "workloads": {
                    name: {
                        "summary": workload.summary,
                        "axes": {
                            axis.name: {"default": axis.default, "choices": list(axis.choices)}
                            for axis in workload.axes
                        },
                    }
                    for name, workload in workloads.workloads.items()
                },
                "broken": dict(workloads.broken),
                "sweeps": {
                    name: {"description": sweep.description, "cases": len(sweep.cases)}
                    for name, sweep in sweeps.items()
                },
            }
        )
        return 0
    for name, workload in workloads.workloads.items():
        print(f"{name}: {workload.summary}")
        for axis in workload.axes:
            choices = f"  [{', '.join(map(str, axis.choices))}]" if axis.choices else ""
            print(f"  {axis.name:<16} {axis.help} (default {axis.default}){choices}")
    for name, reason in workloads.broken.items():
        print(f"{name}: cannot be loaded: {reason}")
    for name, sweep in sweeps.items():
        print(f"sweep {name}: {sweep.description} {len(sweep.cases)} cases.")
    return 0
