"""Training loop: deterministic, and resumable at any step.

A run is a function of its `RunConfig`. It writes ``log.jsonl``, a line a step, and checkpoints; a
stopped or killed run continues from its last checkpoint with the same bits that it would have had.
With several ranks, started by `torchrun`, the first one writes.
"""

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, cast

import torch

from refsys.data.store.store import Store
from refsys.errors import DivergedError
from refsys.parallel.mesh import RunRanks, join
from refsys.parallel.monitor import reporting, uninstall
from refsys.run_config import RunConfig
from refsys.training.build import build_trainer, build_training, initialize
from refsys.training.checkpoint import CHECKPOINTS, checkpoints, restore, save
from refsys.training.loading import Batches
from refsys.training.log import Step, open_log
from refsys.training.stopwatch import PhaseTimer, phase_timer
from refsys.training.trainer import Trainer

# Folder of dumps of torch's flight recorder, in that of the run.
FLIGHT_RECORDER = "flight_recorder"


class _Share(NamedTuple):
    """A rank's part of a step's log line, and whether the rank was asked to stop."""

    drawn: list[str]
    substituted: list[str]
    digest: str
    stop: bool


def train(
    config: RunConfig,
    store: Store,
    folder: Path,
    *,
    steps: int,
    device: torch.device | None = None,
    checkpoint_every: int = 100,
    on_step: Callable[[Step], None] = lambda step: None,
    on_phase: Callable[[int, str], None] = lambda step, phase: None,
) -> int:
    """Train until `steps` steps are done, continuing from the last checkpoint in `folder`.

    SIGINT and SIGTERM stop it after the step in progress, with a checkpoint.

    Args:
        config: Model, inputs, schedule and ranks.
        store: Prepared inputs.
        folder: Folder of the log and the checkpoints, which all ranks share.
        steps: Steps to have done at the end, earlier runs included.
        device: Device to train on; the CPU if None.
        checkpoint_every: Steps between checkpoints.
        on_step: Called on the first rank after each step.
        on_phase: Called before each phase but the loading with the step and the phase's name.

    Returns:
        The number of steps that are done.

    Raises:
        ArgumentError: another number of ranks was started than the configuration has, ranks have
            different configurations or versions, or the examples of a step cannot be divided among
            them.
        CheckpointError: the folder holds another run, cannot be written, or the checkpoint to start
            from cannot be used.
        DataError: an entry is not prepared.
        DivergedError: a loss or a gradient norm is not finite; checkpoints before it are intact.
        RankError: a rank is missing, in every one that is left.
    """
    config, device = config.resolved(), device or torch.device("cpu")
    run = config.identity() | {"steps": steps, "checkpoint_every": checkpoint_every}
    ranks = join(config.parallel, device, run=run, dumps=folder / FLIGHT_RECORDER)
    with reporting():
        done = _train(
            config,
            store,
            folder,
            ranks,
            steps=steps,
            device=device,
            checkpoint_every=checkpoint_every,
            on_step=on_step,
            on_phase=on_phase,
        )
    ranks.barrier()
    uninstall()
    return done


def _train(
    config: RunConfig,
    store: Store,
    folder: Path,
    ranks: RunRanks,
    *,
    steps: int,
    device: torch.device,
    checkpoint_every: int,
    on_step: Callable[[Step], None],
    on_phase: Callable[[int, str], None],
) -> int:
    """Train on the ranks that have joined, see `train`."""
    training = build_training(config, device)
    previous = checkpoints(folder / CHECKPOINTS)
    # Another rank may write its first checkpoint as soon as it is past this.
    ranks.barrier()
    batches = Batches(config, store, device, rank=ranks.data_rank)
    records = batches.examples.records() if batches.examples else {}
    run = config.identity() | {"inputs": records}
    if not previous:
        initialize(training, config)
    if config.parallel.shard_parameters and ranks.count > 1:
        training.shard(ranks)
    done = restore(previous[-1], training, run) if previous else 0
    ranks.agree("the checkpoint", {"steps done": done})
    batches.steps = range(done, steps)
    trainer = build_trainer(config, training, batches, ranks, done=done)
    timer = phase_timer(device)
    log = open_log(folder, done) if ranks.is_first else nullcontext(lambda step: None)
    with _deterministic(), _stop_signal() as stopped, log as write, closing(batches):
        saved = done
        while done < steps:
            step, stop = _step(trainer, ranks, timer, stopped, on_phase)
            _check_finite(step, saved)
            done += 1
            write(step)
            if ranks.is_first:
                on_step(step)
            # Several ranks have agreed; one rank stops for what arrived since.
            stop = stop or (ranks.count == 1 and stopped())
            if done % checkpoint_every == 0 or done == steps or stop:
                if ranks.is_first or training.entry is not None:
                    save(folder / CHECKPOINTS, training, done, run)
                saved = done
            if stop:
                break
    return done


def _step(
    trainer: Trainer,
    ranks: RunRanks,
    timer: PhaseTimer,
    stopped: Callable[[], bool],
    on_phase: Callable[[int, str], None],
) -> tuple[Step, bool]:
    """Run a step; return its log line and whether any rank was asked to stop.

    The host waits for the device once, at the end. A phase of the host waits for what it reads,
    beside that.
    """
    training = trainer.training
    scalars = torch.empty(0)
    for name, run in trainer.phases.items():
        if name == "data":
            run()
            continue
        on_phase(trainer.step, name)
        with timer.phase(name):
            run()
            if name == "optimizer":
                # Copying to the host without blocking needs pinned memory as its target.
                scalars = ranks.mean(trainer.scalars()).to("cpu", non_blocking=True)
    # The wait: before it, the scalars may not have arrived.
    seconds = timer.read()
    loading = trainer.loading
    assert loading is not None, "the data phase has run"
    shares = ranks.gathered(_share(trainer, stopped()))
    # The ranks of a context group have the same examples.
    examples = shares[:: ranks.context_ranks]
    loss, gradient_norm, *parts = scalars.tolist()
    step = Step(
        step=trainer.step,
        loss=loss,
        losses=dict(zip(training.losses, parts, strict=True)),
        cycles=training.cycles_of(trainer.sampled_step),
        drawn=[name for share in examples for name in share.drawn],
        substituted=[reason for share in examples for reason in share.substituted],
        batch=" ".join(share.digest for share in examples),
        gradient_norm=gradient_norm,
        learning_rate=training.schedule.rate(trainer.step),
        seconds={"data": loading.waited} | seconds,
    )
    return step, any(share.stop for share in shares)


def _share(trainer: Trainer, stop: bool) -> _Share:
    assert trainer.loading is not None, "the data phase has run"
    loaded = trainer.loading.loaded
    assert loaded is not None, "a placeholder is traced, not trained on"
    return _Share(
        drawn=[example.name for example in loaded.drawn],
        substituted=[reason for example in loaded.drawn for reason in example.substituted],
        digest=loaded.digest,
        stop=stop,
    )


def _check_finite(step: Step, saved: int) -> None:
    for name, value in (("loss", step.loss), ("gradient norm", step.gradient_norm)):
        if not math.isfinite(value):
            raise DivergedError(
                f"step {step.step + 1}: the {name} is {value}; lower the learning rate. The last "
                f"checkpoint has {saved} steps"
            )


@contextmanager
def _deterministic() -> Iterator[None]:
    """Ask torch for the deterministic form of every operator."""
    # cuBLAS needs it to be deterministic, and reads it when its first handle is created.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    memory = cast(Any, torch.utils.deterministic)
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM has arrived."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)

    try:
        before: dict[int, Any] = {
            number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not the main thread
        before = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
