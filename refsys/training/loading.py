"""Batches of a run, built ahead of the step and on their way to the device."""

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import count
from time import perf_counter
from typing import NamedTuple

import torch

from refsys.batch import Batch, PackedBatch
from refsys.data.batches.construction import ExampleSpec
from refsys.data.batches.examples import Examples, SampledExample
from refsys.data.batches.loader import prefetch_steps
from refsys.data.batches.synthetic import synthetic_alphafold3_batch, synthetic_batch
from refsys.data.batches.upload import Sent, Upload
from refsys.data.store.entry_name import RESERVED_ENTRY
from refsys.data.store.store import Store
from refsys.errors import ArgumentError
from refsys.run_config import FULL, RunConfig
from refsys.training.step import Relabel

# Name of generated inputs, in place of an entry.
SYNTHETIC = RESERVED_ENTRY


class Loaded(NamedTuple):
    """A step's batch and its description.

    Attributes:
        sampled_step: Step whose random choices the batch has.
        batch: In one piece of memory: separate fields are slow to receive from a process.
        drawn: Example at each position of the batch; empty for generated inputs.
        digest: See `Batch.digest`.
    """

    sampled_step: int
    batch: PackedBatch
    drawn: list[SampledExample]
    digest: str


class Loading(NamedTuple):
    """A step's batch on its way to the device.

    Attributes:
        loaded: The batch and its description; None for the placeholder of a traced step.
        sent: The batch on its way.
        waited: Seconds that the step waited for it.
    """

    loaded: Loaded | None
    sent: Sent
    waited: float


def example_spec(config: RunConfig, rank: int = 0) -> ExampleSpec:
    """Return the specification of the batches of one rank.

    Args:
        config: Configuration without sizes of 0, see `RunConfig.resolved`.
        rank: Data rank.

    Raises:
        ArgumentError: the examples of a step cannot be divided evenly among the data ranks.
    """
    full = ExampleSpec(
        tokens=config.data.tokens,
        alignment_rows=config.data.alignment_rows,
        batch=config.data.batch,
        sampling=config.data.sampling,
        crop=config.data.crop,
        seed=config.seed,
        whole=config.model.model == FULL,
        cycles=config.model.cycles,
        draw_cycles=config.model.sample_cycles,
        draw_depth=config.data.sample_depth,
        atoms=config.data.atoms,
        templates=config.preset.templates,
        bucketed=config.data.bucketed,
    )
    return full.share(rank, config.parallel.data_ranks)


def is_synthetic(config: RunConfig) -> bool:
    """Return whether the inputs are generated.

    Raises:
        ArgumentError: generated inputs and entries are mixed.
    """
    entries = config.data.entries
    if SYNTHETIC in entries and len(entries) > 1:
        raise ArgumentError(f"entries {' '.join(entries)}: {SYNTHETIC} inputs stand alone")
    return entries == (SYNTHETIC,)


def open_examples(config: RunConfig, store: Store, rank: int = 0) -> Examples | None:
    """Return the examples of a run, None if its inputs are generated.

    Raises:
        ArgumentError: see `example_spec`.
        DataError: an entry is not prepared, or is damaged.
    """
    if is_synthetic(config):
        return None
    return Examples(store, config.data.entries, example_spec(config, rank))


def load(examples: Examples, config: RunConfig, step: int) -> Loaded:
    """Return the batch of a training step: a function of the configuration and the step alone.

    Raises:
        DataError: a record is damaged, or no example fits.
    """
    sampled = config.sampled_step(step)
    batch = examples[sampled]
    return Loaded(sampled, batch.packed(), examples.sampled(sampled), batch.digest())


def load_step(config: RunConfig, store: Store, rank: int, step: int) -> Loaded:
    """Return the batch of one rank and step, built in this process.

    Args:
        config: Configuration without sizes of 0.
        store: Prepared entries.
        rank: Data rank.
        step: Training step.

    Raises:
        DataError: an entry is not prepared, a record is damaged, or no example fits.
    """
    examples = open_examples(config, store, rank)
    if examples is None:
        return generate(example_spec(config, rank), config, step)
    return load(examples, config, step)


def generate(spec: ExampleSpec, config: RunConfig, step: int) -> Loaded:
    """Return the generated batch of a training step."""
    build = synthetic_alphafold3_batch if spec.whole else synthetic_batch
    sampled = config.sampled_step(step)
    batch = build(spec, sampled)
    return Loaded(sampled, batch.packed(), [], batch.digest())


class Batches:
    """Iterator over the batches of a run on one rank; close it at the end.

    Attributes:
        examples: Examples that the batches are built from, None if they are generated.
        steps: Steps of the batches, in order; read when the first one is requested.
    """

    def __init__(
        self,
        config: RunConfig,
        store: Store,
        device: torch.device,
        *,
        rank: int = 0,
        steps: Iterable[int] | None = None,
        load_step: Callable[[int], Loaded] | None = None,
    ) -> None:
        """Open the examples; no batch is built before it is requested.

        Args:
            config: Configuration without sizes of 0.
            store: Prepared entries.
            device: Device that batches are sent to.
            rank: Data rank.
            steps: Steps, in order; all of them from 0 if None.
            load_step: Function from a step to its batch, in place of the configured one.

        Raises:
            ArgumentError: see `example_spec`.
            DataError: an entry is not prepared, or is damaged.
        """
        self._config, self._device = config, device
        self.examples = open_examples(config, store, rank)
        if load_step is None and self.examples is not None:
            load_step = partial(load, self.examples, config)
        self._load = load_step or partial(generate, example_spec(config, rank), config)
        self.steps: Iterable[int] = count() if steps is None else steps
        self._loadings: Generator[Loading] | None = None

    @property
    def relabel(self) -> Relabel | None:
        """Function that permutes a batch's labels; None if its labels have no symmetry."""
        full = self._config.model.model == FULL
        return self.examples.relabelled if self.examples is not None and full else None

    def __iter__(self) -> Iterator[Loading]:
        """Return the batches."""
        return self

    def __next__(self) -> Loading:
        """Return the next step's batch.

        Raises:
            DataError: a record is damaged, no example fits, or a loader process ended.
        """
        if self._loadings is None:
            self._loadings = _loadings(
                self._load, self.steps, self._config.data.workers, self._device
            )
        loading = next(self._loadings)
        if self.examples is not None and loading.loaded is not None:
            # Built in another process, and needed here to permute its labels.
            loaded = loading.loaded
            self.examples.remember(loaded.sampled_step, loaded.drawn, loading.sent.host)
        return loading

    def close(self) -> None:
        """End the loader processes."""
        if self._loadings is not None:
            self._loadings.close()


def placeholders(build: Callable[[], Batch]) -> Iterator[Loading]:
    """Yield the batches that `build` returns, on the default device, for tracing a step."""
    while True:
        batch = build()
        yield Loading(None, Sent(batch, batch, _arrived), 0.0)


def _loadings(
    load_step: Callable[[int], Loaded],
    steps: Iterable[int],
    workers: int,
    device: torch.device,
) -> Generator[Loading]:
    upload = Upload(device)
    send = upload.send if workers else partial(_copied, device=device)

    def take(loaded: Loaded) -> tuple[Loaded, Sent]:
        return loaded, send(loaded.batch)

    start = perf_counter()
    for loaded, sent in prefetch_steps(load_step, steps, workers, take=take):
        yield Loading(loaded, sent, perf_counter() - start)
        start = perf_counter()


def _copied(packed: PackedBatch, device: torch.device) -> Sent:
    """Copy a batch to a device field by field, when the step asks for it."""
    host = packed.unpacked()
    return Sent(host, host.to(device), _arrived)


def _arrived() -> None:
    """Wait for nothing: the batch is on its device."""
