"""``foldperf train``."""

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import faults, options

if TYPE_CHECKING:
    from refsys.data.store.store import Store
    from refsys.run_config import RunConfig
    from refsys.training.log import Step

SUMMARY = "train the reference system on prepared structures"
EXAMPLE = (
    "foldperf train --entries 1ubq 8vkf --steps 50 --out runs/tiny\n"
    "  foldperf train --stage fine_tuning_1 --start runs/tiny --steps 50 --out runs/fine\n"
    "  foldperf train --model trunk --steps 50 --out runs/trunk\n"
    "  foldperf train --entries 1ubq 8vkf --out runs/tiny --replay-step 17"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options: model, inputs, schedule, loading, output."""
    # The names of precisions and crops live beside torch and NumPy, which help does not wait for.
    from refsys.config import PRESETS

    parser.add_argument(
        "--model", choices=["alphafold3", "trunk"], default="alphafold3", help="model to train"
    )
    parser.add_argument(
        "--stage",
        default="initial",
        help="initial, fine_tuning_1, fine_tuning_2 or fine_tuning_3: crop, samples, loss weights",
    )
    parser.add_argument(
        "--start", type=Path, help="folder of a run or checkpoint with the initial weights"
    )
    parser.add_argument(
        "--samples", type=_positive, help="diffusion samples (default: the stage's)"
    )
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny", help="model size")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float64")
    parser.add_argument(
        "--entries", nargs="+", metavar="ENTRY", help="entries (default: all prepared)"
    )
    parser.add_argument("--tokens", type=_positive, help="crop (default: the stage's)")
    parser.add_argument(
        "--alignment-rows", type=_positive, help="MSA depth (default: the preset's)"
    )
    parser.add_argument("--batch", type=_positive, default=1, help="examples in a step")
    parser.add_argument(
        "--sampling",
        default="weighted",
        help="weighted: chains and interfaces, as published; epochs: each entry once an epoch",
    )
    parser.add_argument("--crop", default="mixed", help="contiguous, spatial, interface or mixed")
    parser.add_argument(
        "--cycles",
        type=_positive,
        default=4,
        help="recycling iterations at most: each step samples from 1 to this",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learning-rate", type=_rate, default=1.8e-3)
    parser.add_argument("--warmup-steps", type=_positive, default=1000)
    parser.add_argument(
        "--no-buckets", action="store_true", help="pad every batch to the whole crop"
    )
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--steps", type=_positive, help="total number of steps")
    what.add_argument(
        "--replay-step",
        type=_count,
        metavar="STEP",
        help="without training, rebuild the batch of this step and compare it with the log",
    )
    parser.add_argument("--workers", type=_count, default=1, help="loader processes")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--checkpoint-every", type=_positive, default=100, metavar="STEPS")
    parser.add_argument("--out", type=Path, required=True, help="log and checkpoints")
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train, going on from the last checkpoint of the folder.

    Returns:
        0 when all steps are done, 130 if a signal stopped it before; with ``--replay-step`` 1 if
        the log has another batch.
    """
    from bench.devices import find_device
    from refsys.config import preset
    from refsys.data.store.store import Store
    from refsys.run_config import RunConfig
    from refsys.training.alphafold3_step import stage
    from refsys.training.checkpoint import latest
    from refsys.training.log import LOG
    from refsys.training.train import train

    model = preset(arguments.preset)
    store = Store(options.store(arguments))
    config = RunConfig(
        preset=arguments.preset,
        model=arguments.model,
        stage=arguments.stage,
        samples=arguments.samples or 0,
        start=str(latest(arguments.start).resolve()) if arguments.start else "",
        precision=arguments.precision,
        entries=tuple(arguments.entries or store.entries()),
        tokens=arguments.tokens or stage(arguments.stage).crop(model),
        alignment_rows=arguments.alignment_rows or model.alignment_rows,
        batch=arguments.batch,
        sampling=arguments.sampling,
        crop=arguments.crop,
        cycles=arguments.cycles,
        seed=arguments.seed,
        bucketed=not arguments.no_buckets,
        checkpointing=not arguments.no_checkpointing,
        learning_rate=arguments.learning_rate,
        warmup_steps=arguments.warmup_steps,
    )
    if arguments.replay_step is not None:
        return _replay(config, store, arguments.out, arguments.replay_step)
    done = train(
        config,
        store,
        arguments.out,
        steps=arguments.steps,
        workers=arguments.workers,
        device=find_device(arguments.device).torch_device,
        checkpoint_every=arguments.checkpoint_every,
        on_step=Reporter(arguments.steps),
    )
    if done < arguments.steps:
        print(f"stopped after {done} steps; the same command goes on from there")
        return faults.INTERRUPTED
    print(f"{done} steps done; the log is {arguments.out / LOG}")
    return 0


def _replay(config: "RunConfig", store: "Store", folder: Path, step: int) -> int:
    """Build a step's batch and print it; 1 if the log has another."""
    from refsys.training.loading import examples_of, load
    from refsys.training.log import logged

    loaded = load(examples_of(config, store), config, step)
    line = logged(folder, step)
    batch = loaded.batch.unpacked()
    for name, digest in batch.digests().items():
        tensor = batch[name]
        print(f"{name:26} {tensor.dtype!s:15} {list(tensor.shape)!s:20} {digest}")
    for reason in (reason for example in loaded.drawn for reason in example.substituted):
        print(f"substituted: {reason}")
    names = ", ".join(example.name for example in loaded.drawn)
    print(f"step {step}: {names}: batch {loaded.digest}")
    if line is None:
        print(f"{folder} has no step {step} to compare with")
        return 0
    same = line.get("batch") == loaded.digest
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


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value
