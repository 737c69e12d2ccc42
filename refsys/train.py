"""The training loop: deterministic, resumable at any step.

A run is a function of its `RunConfig`. It writes ``log.jsonl``, a line a step, and checkpoints; a
stopped or killed run goes on from its last checkpoint with the same bits that it would have had.
"""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, NamedTuple, cast

import torch

from refsys.alphafold3_step import AlphaFold3Training, stage
from refsys.batch import PackedBatch
from refsys.checkpoint import CHECKPOINTS, checkpoints, load_weights, restore, save
from refsys.config import preset
from refsys.data.examples import Examples, ExampleSpec
from refsys.data.loader import made_ahead
from refsys.data.store import Store
from refsys.errors import ArgumentError, CheckpointError, DivergedError
from refsys.files import write_atomically
from refsys.precision import precision
from refsys.training_step import OptimizerConfig, Training, TrunkTraining

# What can be trained.
TRUNK, WHOLE = MODELS = ("trunk", "alphafold3")
LOG = "log.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides what a run computes.

    Attributes:
        preset: Model size.
        model: ``trunk`` or ``alphafold3``.
        stage: Stage of training of the whole model: weights of its losses.
        samples: Noised copies of each example, of the whole model; 0 is the stage's own.
        start: Checkpoint whose weights the run starts from; random ones if empty.
        precision: Dtype table.
        entries: Prepared structures to train on.
        tokens: Crop.
        alignment_rows: Alignment rows.
        batch: Examples in a step.
        crop: Kind of crop.
        cycles: Recycling iterations of a step, at most: each step draws from 1 to this.
        seed: Seed of everything random.
        checkpointing: Whether blocks recompute their activations.
        repeat: Draws to go through again and again: step s has the crop, the noise and all other
            draws of step s modulo this; 0 is new ones for ever.
        learning_rate: At the end of the warm-up.
        warmup_steps: Steps of linear warm-up.
    """

    preset: str
    entries: tuple[str, ...]
    tokens: int
    alignment_rows: int
    model: str = "trunk"
    stage: str = "initial"
    samples: int = 0
    start: str = ""
    precision: str = "float32"
    batch: int = 1
    crop: str = "mixed"
    cycles: int = 1
    seed: int = 0
    checkpointing: bool = True
    repeat: int = 0
    learning_rate: float = OptimizerConfig().learning_rate
    warmup_steps: int = OptimizerConfig().warmup_steps

    def draws_of(self, step: int) -> int:
        """The step whose draws a step has."""
        return step % self.repeat if self.repeat else step


@dataclass(frozen=True, slots=True)
class Step:
    """What the log says of a step.

    Attributes:
        step: Its number, from 0.
        loss: Before the update.
        losses: Its parts.
        cycles: Recycling iterations.
        entries: What each place of the batch held.
        substituted: Why examples that were drawn before these could not be used.
        batch: Digest of the batch, see `Batch.digest`.
        gradient_norm: Before clipping.
        learning_rate: Of the update.
        seconds: By phase.
    """

    step: int
    loss: float
    losses: dict[str, float]
    cycles: int
    entries: list[str]
    substituted: list[str]
    batch: str
    gradient_norm: float
    learning_rate: float
    seconds: dict[str, float]


class Loaded(NamedTuple):
    """A step's batch, and what is said of it.

    Attributes:
        batch: On the host, in one piece: a piece for each field is slow to come from a process.
        entries: What each place holds.
        substituted: See `Step`.
        digest: See `Step.batch`.
    """

    batch: PackedBatch
    entries: list[str]
    substituted: list[str]
    digest: str


def load(examples: Examples, config: "RunConfig", step: int) -> Loaded:
    """The batch of a training step: a function of the configuration and the step alone.

    Raises:
        DataError: a record is damaged, or no example fits.
    """
    draws = config.draws_of(step)
    batch = examples[draws]
    drawn = examples.drawn(draws)
    return Loaded(
        batch.packed(),
        [place.example.entry for place in drawn],
        [reason for place in drawn for reason in place.substituted],
        batch.digest(),
    )


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
    with _deterministic(), _stop_signal() as stopped, _log(folder, done) as write:
        saved = done
        for loading in _batches(examples, config, done, steps, workers, device):
            loaded, draws = loading[0], config.draws_of(done)
            examples.remember(draws, loaded.entries, loaded.batch.unpacked())
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


def examples_of(config: RunConfig, store: Store) -> Examples:
    """What a run trains on.

    Raises:
        DataError: an entry is not prepared, or is damaged.
    """
    return Examples(store, config.entries, _spec(config))


def _spec(config: RunConfig) -> ExampleSpec:
    return ExampleSpec(
        tokens=config.tokens,
        alignment_rows=config.alignment_rows,
        batch=config.batch,
        crop=config.crop,
        seed=config.seed,
        whole=config.model == WHOLE,
        templates=preset(config.preset).templates,
    )


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


def _batches(
    examples: Examples, config: RunConfig, first: int, last: int, workers: int, device: torch.device
) -> Iterator[tuple[Loaded, float]]:
    """(batch, seconds waited for it) of each step from `first` on."""
    batches = made_ahead(
        partial(load, examples, config), range(first, last), workers, pinned=device.type == "cuda"
    )
    start = perf_counter()
    for loaded in batches:
        yield loaded, perf_counter() - start
        start = perf_counter()


def _step(
    training: Training,
    loading: tuple[Loaded, float],
    step: int,
    draws: int,
    device: torch.device,
    on_phase: Callable[[int, str], None],
) -> Step:
    loaded, waited = loading
    batch = loaded.batch.to(device).unpacked()
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
        entries=loaded.entries,
        substituted=loaded.substituted,
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
        return dict(json.loads(lines[step])) if step < len(lines) else None
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
