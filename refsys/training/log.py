"""The log of a training run: ``log.jsonl``, a line a step."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from refsys.errors import CheckpointError
from refsys.files import parse_json, write_atomically

LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """Line of the log about a step.

    Attributes:
        step: Its number, from 0.
        loss: Before the update.
        losses: Its parts.
        cycles: Recycling iterations.
        drawn: Example at each position of the batch: an entry, and the chains that its crop is
            about.
        substituted: Reasons for which examples sampled before these could not be used.
        batch: The batch's digest.
        gradient_norm: Before clipping.
        learning_rate: Of the update.
        seconds: By phase; ``data`` is the wait for the batch. Unit: s.
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


def logged(folder: Path, step: int) -> dict[str, Any] | None:
    """Return the line of a run's log about a step; None if there is none.

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
def open_log(folder: Path, done: int) -> Iterator[Callable[[Step], None]]:
    """Yield a function that appends the line of a step to a run's log.

    Lines of steps after the first `done`, which are to be done again, are dropped.

    Raises:
        CheckpointError: the log cannot be written, or has fewer than `done` lines.
    """
    path = folder / LOG
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines = path.read_bytes().splitlines()[:done] if path.exists() else []
        if len(lines) < done:
            raise CheckpointError(
                f"{path}: has {len(lines)} lines; the checkpoint has {done} steps"
            )
        write_atomically(path, b"".join(line + b"\n" for line in lines))
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
