"""Plan a training run without the hardware: what fits, how fast it is, what it costs.

    python examples/plan_run.py --tokens 384 --device h100 --gpus 8

Prints the candidates for each number of ranks that divide an example, with memory, time and energy.
Memory is traced with shapes alone; time and energy are predicted. The first plan of a length takes
some minutes on two cores for the full model and 10 s with ``--preset tiny``; later ones take
seconds, because traces are kept in the cache folder. On the command line: ``foldperf plan``.
"""

import argparse

from bench.simulation.plan import TRAIN, Request, make_plan
from bench.simulation.predicted import Target


def main() -> None:
    """Make a plan and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--preset", default="full")
    parser.add_argument("--device", default="h100")
    parser.add_argument("--gpus", type=int, default=8)
    arguments = parser.parse_args()

    request = Request(
        goal=TRAIN,
        tokens=arguments.tokens,
        devices=arguments.gpus,
        axes={"preset": arguments.preset},
    )
    plan = make_plan(request, Target.named(arguments.device))
    for candidate in plan.candidates:
        examples_h = "unknown" if candidate.examples_h is None else f"{candidate.examples_h:,.0f}"
        print(
            f"{candidate.context_ranks} ranks an example, {candidate.saving}: "
            f"{candidate.memory_bytes / 1e9:,.1f} GB ({'fits' if candidate.fits else 'too much'}), "
            f"{examples_h} examples/h predicted"
        )
    best = plan.fastest
    if best is None:
        print(f"nothing fits: {plan.way_out}")
    elif best.example_j is None:
        print(f"fastest: {best.saving}; the device's power is not listed")
    else:
        print(f"fastest: {best.saving}, {best.example_j / 1e3:,.2f} kJ an example predicted")


if __name__ == "__main__":
    main()
