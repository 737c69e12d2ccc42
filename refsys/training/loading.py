"""A run's batches: made ahead of the step by loader processes, and on their way to the device."""

from collections.abc import Generator
from functools import partial
from time import perf_counter
from typing import NamedTuple

import torch

from refsys.batch import PackedBatch
from refsys.config import preset
from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Drawn, Examples
from refsys.data.batches.loader import made_ahead
from refsys.data.batches.upload import Sent, Upload
from refsys.data.store.store import Store
from refsys.run_config import FULL, RunConfig


class Loaded(NamedTuple):
    """A step's batch, and what is said of it.

    Attributes:
        batch: In one piece: a piece for each field is slow to come from a process.
        drawn: What each place holds.
        digest: See `Batch.digest`.
    """

    batch: PackedBatch
    drawn: list[Drawn]
    digest: str


class Loading(NamedTuple):
    """A step's batch on its way to the device, and the seconds that the step waited for it."""

    loaded: Loaded
    sent: Sent
    waited: float


def examples_of(config: RunConfig, store: Store) -> Examples:
    """What a run trains on.

    Raises:
        DataError: an entry is not prepared, or is damaged.
    """
    spec = ExampleSpec(
        tokens=config.tokens,
        alignment_rows=config.alignment_rows,
        batch=config.batch,
        sampling=config.sampling,
        crop=config.crop,
        seed=config.seed,
        whole=config.model == FULL,
        cycles=config.cycles,
        draw_cycles=True,
        draw_depth=True,
        templates=preset(config.preset).templates,
        bucketed=config.bucketed,
    )
    return Examples(store, config.entries, spec)


def load(examples: Examples, config: RunConfig, step: int) -> Loaded:
    """The batch of a training step: a function of the configuration and the step alone.

    Raises:
        DataError: a record is damaged, or no example fits.
    """
    draws = config.draws_of(step)
    batch = examples[draws]
    return Loaded(batch.packed(), examples.drawn(draws), batch.digest())


def batches(
    examples: Examples, config: RunConfig, steps: range, workers: int, device: torch.device
) -> Generator[Loading]:
    """The batch of each of a run's steps; close it at the end.

    Args:
        examples: See `examples_of`.
        config: The run's.
        steps: Which, in order.
        workers: Loader processes; 0 makes a batch in this one, when it is asked for.
        device: Where to.

    Raises:
        DataError: a record is damaged, no example fits, or a loader process ended.
    """
    upload = Upload(device)

    def take(loaded: Loaded) -> tuple[Loaded, Sent]:
        return loaded, upload.send(loaded.batch)

    start = perf_counter()
    for loaded, sent in made_ahead(partial(load, examples, config), steps, workers, take=take):
        yield Loading(loaded, sent, perf_counter() - start)
        start = perf_counter()
