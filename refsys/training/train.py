"""The training loop: deterministic, resumable at any step.

A run is a function of its `RunConfig`. It writes ``log.jsonl``, a line a step, and checkpoints; a
stopped or killed run goes on from its last checkpoint with the same bits that it would have had.
"""

import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor

from refsys.config import preset
from refsys.data.store.store import Store
from refsys.errors import ArgumentError, DivergedError
from refsys.precision import precision
from refsys.run_config import FULL, TRUNK, RunConfig
from refsys.training.alphafold3_step import AlphaFold3Training, stage
from refsys.training.checkpoint import CHECKPOINTS, checkpoints, load_weights, restore, save
from refsys.training.loading import Loading, batches, examples_of
from refsys.training.log import Step, open_log
from refsys.training.step import OptimizerConfig, Training, TrunkTraining
from refsys.training.stopwatch import PhaseTimer, phase_timer


def train(
    config: RunConfig,
    store: Store,
    folder: Path,
    *,
    steps: int,
    workers: int = 0,
    device: torch.device | None = None,
    checkpoint_every: int = 100,
    on_step: Callable[[Step], None] = lambda step: None,
    on_phase: Callable[[int, str], None] = lambda step, phase: None,
) -> int:
    """Train until `steps` steps are done, going on from what `folder` holds.

    SIGINT and SIGTERM stop it after the step in flight, with a checkpoint.

    Args:
        config: Model, inputs and schedule.
        store: Prepared inputs.
        folder: Log and checkpoints.
        steps: Steps to have done at the end, earlier runs included.
        workers: Loader processes; 0 loads in this one. It changes no bit of the result.
        device: Device to train on; the CPU if None.
        checkpoint_every: Steps between checkpoints.
        on_step: Called after each step.
        on_phase: Called before each phase but the loading with the step and the phase's name.

    Returns:
        The number of steps that are done.

    Raises:
        ArgumentError: the model or the stage does not exist.
        CheckpointError: the folder holds another run, cannot be written, or the checkpoint to start
            from cannot be used.
        DataError: an entry is not prepared.
        DivergedError: a loss or a gradient norm is not finite; checkpoints before it are intact.
    """
    device = device or torch.device("cpu")
    training = _training(config, device)
    examples = examples_of(config, store)
    if config.model == FULL:
        training.relabel = examples.relabelled
    run = asdict(config) | {"inputs": examples.records()}
    found = checkpoints(folder / CHECKPOINTS)
    done = restore(found[-1], training, run) if found else 0
    if not found:
        _initialize(training, config)
    left = range(done, steps)
    timer = phase_timer(device)
    with (
        _deterministic(),
        _stop_signal() as stopped,
        open_log(folder, done) as write,
        closing(batches(examples, config, left, workers, device)) as loadings,
    ):
        saved = done
        for loading in loadings:
            draws = config.draws_of(done)
            examples.remember(draws, loading.loaded.drawn, loading.sent.host)
            step = _step(training, loading, done, draws, timer, on_phase)
            _check_finite(step, saved)
            done += 1
            write(step)
            on_step(step)
            if done % checkpoint_every == 0 or done == steps or stopped():
                save(folder / CHECKPOINTS, training, done, run)
                saved = done
            if stopped():
                break
        if saved != done:
            save(folder / CHECKPOINTS, training, done, run)
    return done


def _training(config: RunConfig, device: torch.device) -> Training:
    model, table = preset(config.preset), precision(config.precision)
    options: dict[str, Any] = {
        "seed": config.seed,
        "cycles": config.cycles,
        "draw_cycles": True,
        "checkpointing": config.checkpointing,
        "optimizer": OptimizerConfig(
            learning_rate=config.learning_rate, warmup_steps=config.warmup_steps
        ),
        "device": device,
    }
    if config.model == TRUNK:
        return TrunkTraining(model, table, **options)
    if config.model != FULL:
        raise ArgumentError(f"model={config.model!r} does not exist; choose {TRUNK} or {FULL}")
    weights = stage(config.stage)
    samples = config.samples or weights.copies(model)
    return AlphaFold3Training(model, table, stage=weights, samples=samples, **options)


def _initialize(training: Training, config: RunConfig) -> None:
    if config.start:
        load_weights(Path(config.start), training, averaged=False)
    else:
        training.initialize()


def _step(
    training: Training,
    loading: Loading,
    step: int,
    draws: int,
    timer: PhaseTimer,
    on_phase: Callable[[int, str], None],
) -> Step:
    """Run a step; the host waits for the device once, at the end.

    A phase that works on the host (`Training.host_phases`) waits for what it reads, beside that.
    """
    loaded, sent, waited = loading
    batch = sent.arrived()

    def phase(name: str) -> AbstractContextManager[None]:
        on_phase(step, name)
        return timer.phase(name)

    passing = training.begin(batch, draws)
    for name in training.forward_phases:
        with phase(name):
            passing.run(name)
    loss = passing.loss
    assert loss is not None, "the last phase makes the loss"
    with phase("backward"):
        training.backward(loss)
    with phase("optimizer"):
        norm = training.update(step)
        scalars = _on_host(loss, norm, *training.losses.values())
    # The wait: before it, the scalars may not be there.
    seconds = timer.read()
    total, gradient_norm, *parts = scalars.tolist()
    return Step(
        step=step,
        loss=total,
        losses=dict(zip(training.losses, parts, strict=True)),
        cycles=training.cycles_of(draws),
        drawn=[place.name for place in loaded.drawn],
        substituted=[reason for place in loaded.drawn for reason in place.substituted],
        batch=loaded.digest,
        gradient_norm=gradient_norm,
        learning_rate=training.schedule.rate(step),
        seconds={"data": waited} | seconds,
    )


def _on_host(*scalars: Tensor) -> Tensor:
    """Return scalars as one float64 tensor on the host, into which the device may still write."""
    together = torch.stack([scalar.detach().double() for scalar in scalars])
    # To the host without blocking is to pinned memory.
    return together.to("cpu", non_blocking=True)


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
    # What cuBLAS needs to be deterministic; read when its first handle is made.
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
    """Yield a function that says whether SIGINT or SIGTERM has come."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        came.append(number)

    try:
        before: dict[int, Any] = {
            number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not the main thread
        before = {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
