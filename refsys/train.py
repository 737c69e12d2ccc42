"""The training loop: deterministic, resumable at any step.

A run is a function of its `RunConfig`. It writes ``log.jsonl``, a line a step, and checkpoints; a
stopped or killed run goes on from its last checkpoint with the same bits that it would have had.
"""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, cast

import torch

from refsys.alphafold3_step import AlphaFold3Training, stage
from refsys.checkpoint import CHECKPOINTS, checkpoints, load_weights, restore, save
from refsys.config import preset
from refsys.data.store import Store
from refsys.errors import ArgumentError, CheckpointError, DivergedError
from refsys.files import parse_json, write_atomically
from refsys.loading import Loading, batches, examples_of
from refsys.precision import precision
from refsys.run_config import TRUNK, WHOLE, RunConfig
from refsys.training_step import OptimizerConfig, Training, TrunkTraining

LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """What the log says of a step.

    Attributes:
        step: Its number, from 0.
        loss: Before the update.
        losses: Its parts.
        cycles: Recycling iterations.
        drawn: What each place of the batch held: an entry, and the chains that its crop is about.
        substituted: Why what was drawn before these could not be used.
        batch: The batch's digest.
        gradient_norm: Before clipping.
        learning_rate: Of the update.
        seconds: By phase.
    """

    step: int
    loss: float
    losses: dict[str, float]
    cycles: int
    drawn: list[str]
    substituted: list[str]
    batch: str
    gradient_norm: float
    learning_rate: float
    seconds: dict[str, float]


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
    """Trains until `steps` steps are done, going on from what `folder` holds.

    SIGINT and SIGTERM stop it after the step in flight, with a checkpoint.

    Args:
        config: What to compute.
        store: Prepared inputs.
        folder: Log and checkpoints.
        steps: Steps to have done at the end, earlier runs included.
        workers: Loader processes; 0 loads in this one. It changes no bit of the result.
        device: Where to train.
        checkpoint_every: Steps between checkpoints.
        on_step: Called after each step.
        on_phase: Called before each phase but the loading with the step and the phase's name.

    Returns:
        How many steps are done.

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
    if config.model == WHOLE:
        training.relabel = examples.relabelled
    run = asdict(config) | {"inputs": examples.records()}
    found = checkpoints(folder / CHECKPOINTS)
    done = restore(found[-1], training, run) if found else 0
    if not found:
        _initialize(training, config)
    left = range(done, steps)
    with (
        _deterministic(),
        _stop_signal() as stopped,
        _log(folder, done) as write,
        closing(batches(examples, config, left, workers, device)) as loadings,
    ):
        saved = done
        for loading in loadings:
            draws = config.draws_of(done)
            examples.remember(draws, loading.loaded.drawn, loading.sent.host)
            step = _step(training, loading, done, draws, device, on_phase)
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
    if config.model != WHOLE:
        raise ArgumentError(f"model={config.model!r} does not exist; choose {TRUNK} or {WHOLE}")
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
    device: torch.device,
    on_phase: Callable[[int, str], None],
) -> Step:
    loaded, sent, waited = loading
    batch = sent.arrived()
    seconds = {"data": waited}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        on_phase(step, name)
        start = perf_counter()
        yield
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds[name] = perf_counter() - start

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
    return Step(
        step=step,
        loss=float(loss.detach()),
        losses={name: float(part) for name, part in training.losses.items()},
        cycles=training.cycles_of(draws),
        drawn=[place.name for place in loaded.drawn],
        substituted=[reason for place in loaded.drawn for reason in place.substituted],
        batch=loaded.digest,
        gradient_norm=float(norm),
        learning_rate=training.schedule.rate(step),
        seconds=seconds,
    )


def _check_finite(step: Step, saved: int) -> None:
    for name, value in (("loss", step.loss), ("gradient norm", step.gradient_norm)):
        if not math.isfinite(value):
            raise DivergedError(
                f"step {step.step + 1}: the {name} is {value}; lower the learning rate. The last "
                f"checkpoint has {saved} steps"
            )


def logged(folder: Path, step: int) -> dict[str, Any] | None:
    """What a run's log says of a step, None if it says nothing.

    Raises:
        CheckpointError: the log cannot be read.
    """
    path = folder / LOG
    try:
        lines = path.read_bytes().splitlines()
        return dict(parse_json(lines[step])) if step < len(lines) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: step {step}: unreadable ({error})") from None


@contextmanager
def _log(folder: Path, done: int) -> Iterator[Callable[[Step], None]]:
    """Opens the log for appending, without lines of steps that are to be done again."""
    path = folder / LOG
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = path.read_bytes().splitlines()[:done] if path.exists() else []
        if len(kept) < done:
            raise CheckpointError(f"{path}: has {len(kept)} lines; the checkpoint has {done} steps")
        write_atomically(path, b"".join(line + b"\n" for line in kept))
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from None

    def write(step: Step) -> None:
        line = json.dumps(asdict(step), allow_nan=False).encode() + b"\n"
        try:
            os.write(file, line)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror}") from None

    try:
        yield write
    finally:
        os.close(file)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Asks torch for the deterministic form of every operator."""
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
    """Yields whether SIGINT or SIGTERM has come."""
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
