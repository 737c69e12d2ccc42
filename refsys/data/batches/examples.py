"""Batches as a function of the step: what each place of one holds, and what stands in for it.

Everything random is drawn from streams keyed by (seed, step, place in the batch).
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
class Drawn:
    """What a place of a batch holds.

    Attributes:
        choice: Which example, and which of its chains its crop is about.
        name: The same for people: the entry, and the names of the chains.
        substituted: Why each of those that were drawn before it could not be used.
    """

    choice: Choice
    name: str
    substituted: tuple[str, ...] = ()


class _Latest(NamedTuple):
    """The batch that was last made or loaded, and what is in it."""

    step: int
    drawn: list[Drawn]
    batch: Batch


class Examples:
    """Batches as a function of the step.

    An example whose crop does not fit a batch's sizes is substituted by the next one of the same
    stream, so that the substitute is a function of the step as well.
    """

    def __init__(self, store: Store, entries: Sequence[str], spec: ExampleSpec) -> None:
        """Opens the examples.

        Raises:
            DataError: one of them is not prepared, or is damaged.
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
        """What decides the batches: names of records, which name their content, by entry.

        And clusters, by which chains are weighed.
        """
        weighed = self.spec.sampling == WEIGHTED
        return {
            example.entry: example.records()
            | ({"clusters": short_digest(" ".join(example.clusters))} if weighed else {})
            for example in self._examples
        }

    def __getitem__(self, step: int) -> Batch:
        """The batch of a training step.

        Raises:
            CapacityError: no example that is drawn fits.
            DataError: a record is damaged.
        """
        found = [self._example(step, place) for place in self.spec.places]
        batch = Batch.stacked([batch for _, batch in found])
        self._latest = _Latest(step, [drawn for drawn, _ in found], batch)
        return batch

    def drawn(self, step: int) -> list[Drawn]:
        """What each place of a step's batch holds."""
        return self._made(step).drawn

    def remember(self, step: int, drawn: list[Drawn], batch: Batch) -> None:
        """Takes a batch that another process made, so that `relabelled` need not make it again.

        Args:
            step: Whose it is.
            drawn: What each place of it holds.
            batch: On the host.
        """
        self._latest = _Latest(step, drawn, batch)

    def _made(self, step: int) -> _Latest:
        if self._latest is None or self._latest.step != step:
            self[step]
        assert self._latest is not None
        return self._latest

    def relabelled(self, batch: Batch, predicted_BA3: Tensor, step: int) -> Batch:
        """A step's batch with the labels, permuted, that lie best on a prediction.

        Args:
            batch: The step's, on any device.
            predicted_BA3: Predicted positions, ångström; they are brought to the host.
            step: Which step.
        """
        # Positions alone are read back; everything else is known here.
        predicted = predicted_BA3.detach().float().cpu().numpy()
        host = self._made(step).batch if batch["atom_mask"].device.type != "cpu" else batch
        new: dict[str, list[Tensor]] = {}
        for row, (place, drawn) in enumerate(zip(self.spec.places, self.drawn(step), strict=True)):
            example = self._examples[drawn.choice.example]
            if example.entry not in self._symmetries:
                self._symmetries[example.entry] = symmetries_of(example.structure)
            kept = crop_of(example, self.spec, step, place, drawn.choice.focus)
            rows = crop_atoms(example, kept)
            symmetries = self._symmetries[example.entry]
            fields = with_labels_of(host, row, rows, predicted[row], symmetries)
            for name, values in fields.items():
                new.setdefault(name, []).append(values)
        return batch.replaced(**{name: torch.stack(values) for name, values in new.items()})

    def _example(self, step: int, place: int) -> tuple[Drawn, Batch]:
        unusable: list[CapacityError] = []
        for choice in self._sampling.choices(self.spec.seed, step, place):
            example = self._examples[choice.example]
            try:
                batch = example_batch(example, self.spec, step, place, choice.focus)
            except CapacityError as error:
                unusable.append(error)
            else:
                name = _named(example, choice.focus)
                return Drawn(choice, name, tuple(map(str, unusable))), batch
        raise unusable[0]


def _named(example: Example, focus: tuple[int, ...]) -> str:
    chains = example.structure.facts["chains"]
    return " ".join([example.entry, *(chains[chain]["name"] for chain in focus)])
