"""``foldperf learn``."""

import argparse
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cli import faults, options
from bench.cli.train import Reporter

SUMMARY = "check that training learns: repeated passes over a fixed set of samples"
EXAMPLE = "foldperf learn --steps 1000 --out results/runs/learning"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options: model, draws, schedule, target, output."""
    from refsys.config import PRESETS

    count = options.at_least(1)
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny", help="model size")
    parser.add_argument("--entry", default="8vkf", help="prepared structure")
    parser.add_argument(
        "--draws", type=count, default=64, help="number of samples of crop, noise level and noise"
    )
    parser.add_argument("--steps", type=count, default=1000)
    parser.add_argument("--samples", type=count, default=4, help="diffusion samples in a step")
    parser.add_argument("--tokens", type=count, help="crop (default: the preset's)")
    parser.add_argument("--learning-rate", type=float, default=1.8e-3)
    parser.add_argument("--warmup-steps", type=count, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--target", type=float, default=0.7, help="largest ratio of the last pass to the first"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="log, checkpoints, record and figure"
    )
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, record the curve and plot it.

    Returns:
        0 if the loss fell far enough, 1 if not, 130 if a signal stopped the training.
    """
    from analysis.learning import draw_learning
    from bench.devices import find_device
    from bench.errors import UsageError
    from bench.learning import RECORD, learning_record
    from bench.records.record_file import write_alone
    from refsys.data.store.store import Store
    from refsys.run_config import run_config
    from refsys.training.log import LOG
    from refsys.training.train import train

    if arguments.steps < 2 * arguments.draws:
        raise UsageError(
            f"--steps {arguments.steps}: fewer than two passes over {arguments.draws} draws"
        )
    config = run_config(
        preset=arguments.preset,
        entry=arguments.entry,
        tokens=arguments.tokens or 0,
        samples=arguments.samples,
        cycles=1,
        workers=0,
        seed=arguments.seed,
        checkpointing=False,
        repeat=arguments.draws,
        learning_rate=arguments.learning_rate,
        warmup_steps=arguments.warmup_steps,
    ).resolved()
    started = datetime.now(UTC)
    done = train(
        config,
        Store(options.store(arguments)),
        arguments.out,
        steps=arguments.steps,
        device=find_device(arguments.device).torch_device,
        checkpoint_every=arguments.steps,
        on_step=Reporter(arguments.steps),
    )
    if done < arguments.steps:
        print(f"stopped after {done} steps; the same command goes on from there")
        return faults.INTERRUPTED
    record = learning_record(config, arguments.out / LOG, started)
    paths: list[Path] = []
    return faults.settled(
        0 if record["ratio"] <= arguments.target else 1,
        lambda: paths.append(write_alone(arguments.out / RECORD, record)),
        lambda: paths.append(draw_learning(record, arguments.out)),
        lambda: _print(record, arguments.target, paths),
        debug=arguments.debug,
    )


def _print(record: dict[str, Any], target: float, paths: Iterable[Path]) -> None:
    curve, loss, ratio = record["curve"], record["loss"], record["ratio"]
    for path in paths:
        print(path)
    print(
        f"{'learns' if ratio <= target else 'does not learn'}: the {loss} loss goes from "
        f"{curve[0]['losses'][loss]:.3f} to {curve[-1]['losses'][loss]:.3f}, {ratio:.3f} of its "
        f"start (at most {target}) in {record['steps']} steps"
    )
