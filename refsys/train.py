"""The training loop of the trunk: deterministic, resumable at any step.

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
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset

from refsys.batch import Batch
from refsys.checkpoint import checkpoints, restore, save
from refsys.config import ModelConfig, preset
from refsys.data.examples import Examples, ExampleSpec
from refsys.data.store import Store
from refsys.errors import CheckpointError, DataError, DivergedError, RefsysError
from refsys.files import write_atomically
from refsys.precision import Precision, precision
from refsys.training_step import OptimizerConfig, TrunkTraining

LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Everything that decides what a run computes.

    Attributes:
        preset: Model size.
        precision: Dtype table.
        entries: Prepared structures to train on.
        tokens: Crop.
        alignment_rows: Alignment rows.
        batch: Examples in a step.
        crop: Kind of crop.
        cycles: Recycling iterations of a step.
        seed: Seed of everything random.
        checkpointing: Whether blocks recompute their activations.
        learning_rate: At the end of the warm-up.
        warmup_steps: Steps of linear warm-up.
    """

    preset: str
    entries: tuple[str, ...]
    tokens: int
    alignment_rows: int
    precision: str = "float32"
    batch: int = 1
    crop: str = "mixed"
    cycles: int = 1
    seed: int = 0
    checkpointing: bool = True
    learning_rate: float = OptimizerConfig().learning_rate
    warmup_steps: int = OptimizerConfig().warmup_steps


@dataclass(frozen=True, slots=True)
class Step:
    """What the log says of a step.

    Attributes:
        step: Its number, from 0.
        loss: Before the update.
        gradient_norm: Before clipping.
        learning_rate: Of the update.
        seconds: By phase.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    seconds: dict[str, float]


class _Steps(Dataset["Batch | RefsysError"]):
    """The batch of each step, for the loader's workers.

    An error of ours is handed over as a value: raised in a worker, it would arrive as a traceback.
    """

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __getitem__(self, step: int) -> Batch | RefsysError:
        try:
            return self._examples[step]
        except RefsysError as error:
            return error


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

    Returns:
        How many steps are done.

    Raises:
        CheckpointError: the folder holds another run, or cannot be written.
        DataError: an entry is not prepared.
        DivergedError: a loss or a gradient norm is not finite; checkpoints before it are intact.
    """
    device = device or torch.device("cpu")
    model, table = preset(config.preset), precision(config.precision)
    spec = ExampleSpec(
        tokens=config.tokens,
        alignment_rows=config.alignment_rows,
        batch=config.batch,
        crop=config.crop,
        seed=config.seed,
    )
    examples = Examples(store, config.entries, spec)
    training = _training(config, model, table, device)
    run = asdict(config) | {"inputs": examples.records()}
    found = checkpoints(folder / CHECKPOINTS)
    done = restore(found[-1], training, run) if found else 0
    if not found:
        training.initialize()
    with _deterministic(), _stop_signal() as stopped, _log(folder, done) as write:
        saved = done
        for batch in _batches(examples, done, steps, workers, device):
            step = _step(training, batch, done, device)
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


def _training(
    config: RunConfig, model: ModelConfig, table: Precision, device: torch.device
) -> TrunkTraining:
    return TrunkTraining(
        model,
        table,
        seed=config.seed,
        cycles=config.cycles,
        checkpointing=config.checkpointing,
        optimizer=OptimizerConfig(
            learning_rate=config.learning_rate, warmup_steps=config.warmup_steps
        ),
        device=device,
    )


def _batches(
    examples: Examples, first: int, last: int, workers: int, device: torch.device
) -> Iterator[tuple[Batch, float]]:
    """(batch, seconds waited for it) of each step from `first` on."""
    loader = DataLoader(
        _Steps(examples),
        sampler=range(first, last),
        batch_size=None,
        num_workers=workers,
        collate_fn=cast(Any, _as_it_is),
        worker_init_fn=_leave_signals_to_parent,
        pin_memory=device.type == "cuda",
    )
    iterator = iter(loader)
    while True:
        start = perf_counter()
        try:
            batch = next(iterator, None)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            # The first line says which and why; what follows is torch's advice.
            raise DataError(f"a loader process ended: {str(error).splitlines()[0]}") from None
        if batch is None:
            return
        if isinstance(batch, RefsysError):
            raise batch
        yield batch, perf_counter() - start


def _as_it_is(batch: Batch | RefsysError) -> Batch | RefsysError:
    return batch


def _leave_signals_to_parent(worker: int) -> None:
    """A terminal interrupts the whole group; the parent decides when its workers end."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _step(
    training: TrunkTraining, loaded: tuple[Batch, float], step: int, device: torch.device
) -> Step:
    batch, waited = loaded
    batch = batch.to(device)
    marks = [perf_counter()]

    def mark() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(perf_counter())

    loss = training.forward(batch, step)
    mark()
    training.backward(loss)
    mark()
    norm = training.update(step)
    mark()
    forward, backward, optimizer = (b - a for a, b in pairwise(marks))
    return Step(
        step=step,
        loss=float(loss.detach()),
        gradient_norm=float(norm),
        learning_rate=training.schedule.rate(step),
        seconds={
            "data": waited,
            "forward": forward,
            "backward": backward,
            "optimizer": optimizer,
        },
    )


def _check_finite(step: Step, saved: int) -> None:
    for name, value in (("loss", step.loss), ("gradient norm", step.gradient_norm)):
        if not math.isfinite(value):
            raise DivergedError(
                f"step {step.step + 1}: the {name} is {value}; lower the learning rate. The last "
                f"checkpoint has {saved} steps"
            )


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
