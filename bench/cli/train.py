"""``foldperf train``."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import faults, options, ranks

if TYPE_CHECKING:
    from refsys.data.store.store import Store
    from refsys.run_config import RunConfig
    from refsys.training.log import Step

SUMMARY = "train the reference system on prepared structures"
EXAMPLE = (
    "foldperf train --entries 1ubq 8vkf --steps 50 --out runs/tiny\n"
    "  foldperf train --stage fine_tuning_1 --start runs/tiny --steps 50 --out runs/fine\n"
    "  foldperf train --model trunk --steps 50 --out runs/trunk\n"
    "  foldperf train --data-ranks 2 --batch 2 --steps 50 --out runs/two\n"
    "  foldperf train --context-ranks 2 --steps 50 --out runs/halves\n"
    "  foldperf train --entries 1ubq 8vkf --out runs/tiny --replay-step 17"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add an option for each leaf of `RunConfig`, then steps, device and output."""
    from refsys.options import options_of
    from refsys.run_config import RunConfig

    for leaf in options_of(RunConfig):
        if leaf.command_line:
            options.add_option(parser, leaf)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--steps", type=_positive, help="total number of steps, earlier runs included"
    )
    action.add_argument(
        "--replay-step",
        type=_count,
        metavar="STEP",
        help="do not train: build the batch of this step again and compare it with the log",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--checkpoint-every", type=_positive, default=100, metavar="STEPS")
    parser.add_argument("--out", type=Path, required=True, help="log and checkpoints")
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, continuing from the last checkpoint of the folder.

    With several ranks this process starts them through `torchrun`, unless `torchrun` started it.

    Returns:
        0 when all steps are done, 130 if a signal stopped it before; with ``--replay-step`` 1 if
        the log has another batch.
    """
    from refsys.data.store.store import Store
    from refsys.training.loading import example_spec
    from refsys.training.log import LOG

    store = Store(options.store(arguments))
    config = _config(arguments, store)
    if arguments.replay_step is not None:
        return _replay(config, store, arguments.out, arguments.replay_step)
    count = config.parallel.data_ranks * config.parallel.context_ranks
    if count > 1 and not ranks.are_started():
        example_spec(config)  # refuses examples that cannot be divided, before any rank starts
        return ranks.start(count, arguments.device, arguments.words)
    from refsys.training.train import train

    rank = int(os.environ.get("RANK", "0"))
    if count > 1:
        ranks.die_with_launcher()
    done = train(
        config,
        store,
        arguments.out,
        steps=arguments.steps,
        device=ranks.device(arguments.device),
        checkpoint_every=arguments.checkpoint_every,
        on_step=Reporter(arguments.steps),
    )
    if done < arguments.steps:
        if rank == 0:
            print(f"stopped after {done} steps; the same command continues from there")
        return faults.INTERRUPTED
    if rank == 0:
        print(f"{done} steps done; the log is {arguments.out / LOG}")
    return 0


def _config(arguments: argparse.Namespace, store: "Store") -> "RunConfig":
    """Return the configuration of the run: all prepared entries unless some are named."""
    from refsys.options import configured, options_of
    from refsys.run_config import RunConfig
    from refsys.training.checkpoint import latest

    values = {
        leaf.name: value
        for leaf in options_of(RunConfig)
        if (value := getattr(arguments, leaf.field, None)) is not None
    }
    if "entry" not in values:
        values["entry"] = " ".join(store.entries())
    if values.get("start"):
        values["start"] = str(latest(Path(values["start"])).resolve())
    return configured(RunConfig, values).resolved()


def _replay(config: "RunConfig", store: "Store", folder: Path, step: int) -> int:
    """Build a step's batch and print it; 1 if the log has another."""
    from refsys.training.loading import load_step
    from refsys.training.log import logged

    shares = [load_step(config, store, rank, step) for rank in range(config.parallel.data_ranks)]
    line = logged(folder, step)
    for loaded in shares:
        batch = loaded.batch.unpacked()
        for name, digest in batch.digests().items():
            tensor = batch[name]
            print(f"{name:26} {tensor.dtype!s:15} {list(tensor.shape)!s:20} {digest}")
        for reason in (reason for example in loaded.drawn for reason in example.substituted):
            print(f"substituted: {reason}")
    names = ", ".join(example.name for loaded in shares for example in loaded.drawn)
    built = " ".join(loaded.digest for loaded in shares)
    print(f"step {step}: {names}: batch {built}")
    if line is None:
        print(f"{folder} has no step {step} to compare with")
        return 0
    same = line.get("batch") == built
    print(f"{'the same as' if same else 'not'} that of {folder}, {line.get('batch')}")
    return 0 if same else 1


class Reporter:
    """Printer of a line a step on a terminal, a line every tenth of the run elsewhere."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._every = 1 if sys.stdout.isatty() else max(1, steps // 10)

    def __call__(self, step: "Step") -> None:
        """Print one line about a step."""
        number = step.step + 1
        if number % self._every and number != self._steps:
            return
        total = sum(step.seconds.values())
        left_s = total * (self._steps - number)
        print(
            f"step {number}/{self._steps}  loss {step.loss:.4f}  "
            f"gradient norm {step.gradient_norm:.3f}  {total * 1e3:.0f} ms "
            f"({step.seconds['data'] * 1e3:.0f} waiting for data), {left_s:.0f} s left",
            flush=True,
        )


_positive = options.at_least(1)
_count = options.at_least(0)
