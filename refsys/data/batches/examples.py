"""Batches as a function of the step: sampled examples, and substitutes for those that do not fit.

All randomness comes from streams keyed by (seed, step, index in the global batch).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from refsys.batch import Batch
from refsys.data.batches.atom_features import crop_atoms
from refsys.data.batches.construction import ExampleSpec, crop_of, example_batch
from refsys.data.batches.label_permutation import Symmetries
from refsys.data.batches.labels import symmetries_of, with_labels_of
from refsys.data.batches.sampling import WEIGHTED, Choice, sampling
from refsys.data.store.store import Example, Store, short_digest
from refsys.errors import CapacityError, DataError


@dataclass(frozen=True, slots=True)
class SampledExample:
    """Example that was sampled for one index of a batch.

    Attributes:
        choice: Number of the example, and the chains at the centre of its crop.
        name: Readable form of `choice`: the entry and the names of the chains.
        substituted: Reason for each example that was sampled earlier and could not be used.
    """

    choice: Choice
    name: str
    substituted: tuple[str, ...] = ()


class _Latest(NamedTuple):
    """The batch that was built or loaded last, and its sampled examples."""

    step: int
    sampled: list[SampledExample]
    batch: Batch


class Examples:
    """Batches as a function of the step.

    An example whose crop does not fit a batch's sizes is replaced by the next one of the same
    stream, so that the substitute is a function of the step as well.
    """

    def __init__(self, store: Store, entries: Sequence[str], spec: ExampleSpec) -> None:
        """Open and verify the examples.

        Args:
            store: The store of prepared entries.
            entries: Names of the entries.
            spec: Sizes, sampling and crop of the batches.

        Raises:
            DataError: there is no entry, or one is not prepared or damaged.
        """
        self.spec = spec
        self._examples = [store.open(entry) for entry in entries]
        for example in self._examples:
            example.verify()
        if not self._examples:
            raise DataError(f"{store.root}: no examples to train on; run 'foldperf prepare'")
        self._sampling = sampling(spec.sampling, self._examples, spec.total or spec.batch)
        self._symmetries: dict[str, Symmetries] = {}
        self._latest: _Latest | None = None

    def records(self) -> dict[str, dict[str, str]]:
        """Return the inputs that determine the batches, by entry.

        These are the names of its records, which hash their content, and for weighted sampling a
        digest of the clusters that determine the weights.
        """
        weighed = self.spec.sampling == WEIGHTED
        return {
            example.entry: example.records()
            | ({"clusters": short_digest(" ".join(example.clusters))} if weighed else {})
            for example in self._examples
        }

    def __getitem__(self, step: int) -> Batch:
        """Return the batch of a training step.

        Raises:
            CapacityError: no sampled example fits.
            DataError: a record is damaged.
        """
        sampled_batches = [self._example(step, index) for index in self.spec.indices]
        batch = Batch.stacked([batch for _, batch in sampled_batches])
        self._latest = _Latest(step, [sampled for sampled, _ in sampled_batches], batch)
        return batch

    def sampled(self, step: int) -> list[SampledExample]:
        """Return the sampled example at each index of a step's batch."""
        return self._latest_of(step).sampled

    def remember(self, step: int, sampled: list[SampledExample], batch: Batch) -> None:
        """Store a batch from another process, so that `relabelled` need not build it again.

        Args:
            step: Training step of the batch.
            sampled: Sampled example at each of its indices.
            batch: The batch, on the host.
        """
        self._latest = _Latest(step, sampled, batch)

    def _latest_of(self, step: int) -> _Latest:
        if self._latest is None or self._latest.step != step:
            self[step]
        assert self._latest is not None
        return self._latest

    def relabelled(self, batch: Batch, predicted_BA3: Tensor, step: int) -> Batch:
        """Return a step's batch with its labels permuted to fit a prediction best.

        Args:
            batch: Batch of the step, on any device.
            predicted_BA3: Predicted positions, ångström; copied to the host.
            step: Training step.
        """
        # Only positions are copied back: the host has everything else.
        predicted = predicted_BA3.detach().float().cpu().numpy()
        host = self._latest_of(step).batch if batch["atom_mask"].device.type != "cpu" else batch
        relabelled: dict[str, list[Tensor]] = {}
        for row, (index, sampled) in enumerate(
            zip(self.spec.indices, self.sampled(step), strict=True)
        ):
            example = self._examples[sampled.choice.example]
            if example.entry not in self._symmetries:
                self._symmetries[example.entry] = symmetries_of(example.structure)
            tokens = crop_of(example, self.spec, step, index, sampled.choice.focus)
            rows = crop_atoms(example, tokens)
            symmetries = self._symmetries[example.entry]
            fields = with_labels_of(host, row, rows, predicted[row], symmetries)
            for name, values in fields.items():
                relabelled.setdefault(name, []).append(values)
        return batch.replaced(**{name: torch.stack(values) for name, values in relabelled.items()})

    def _example(self, step: int, index: int) -> tuple[SampledExample, Batch]:
        rejections: list[CapacityError] = []
        for choice in self._sampling.choices(self.spec.seed, step, index):
            example = self._examples[choice.example]
            try:
                batch = example_batch(example, self.spec, step, index, choice.focus)
            except CapacityError as error:
                rejections.append(error)
            else:
                name = _named(example, choice.focus)
                return SampledExample(choice, name, tuple(map(str, rejections))), batch
        raise rejections[0]


def _named(example: Example, focus: tuple[int, ...]) -> str:
    chains = example.structure.facts["chains"]
    return " ".join([example.entry, *(chains[chain]["name"] for chain in focus)])
