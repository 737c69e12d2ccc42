"""Which example a place of a batch holds, and the chains of it that its crop is about."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.store import Example
from refsys.errors import ArgumentError
from refsys.streams import Draw

# Chains and interfaces by their weights, or each example once an epoch.
WEIGHTED, EPOCHS = SAMPLINGS = ("weighted", "epochs")

# So many are drawn for a place before it is given up.
DRAWS = 16

# AlphaFold 3 supplement, section 2.5.1: what a chain, an interface, and the molecules in it count.
_CHAIN, _INTERFACE = 0.5, 1.0
_POLYMER, _LIGAND = 3.0, 1.0
_POLYMERS = frozenset({"protein", "rna", "dna"})


class Choice(NamedTuple):
    """An example by its number, and the chain, or the two that meet, that a crop is about."""

    example: int
    focus: tuple[int, ...] = ()


class Sampling(Protocol):
    """Decides what a batch holds."""

    def choices(self, seed: int, step: int, place: int) -> Iterator[Choice]:
        """What a place of a step's batch holds, then what it holds if that cannot be used."""


def sampling(name: str, examples: Sequence[Example], total: int) -> Sampling:
    """A way of sampling by its name.

    Args:
        name: One of `SAMPLINGS`.
        examples: What there is.
        total: Places of the whole batch.

    Raises:
        ArgumentError: there is no such way.
    """
    if name == WEIGHTED:
        return Weighted(examples)
    if name == EPOCHS:
        return Epochs(len(examples), total)
    raise ArgumentError(f"sampling={name!r} does not exist; choose one of {', '.join(SAMPLINGS)}")


class Weighted:
    """Chains and interfaces, each with a probability proportional to its weight.

    The weight is β / n · (3 polymers + ligands), where β is ½ for a chain and 1 for an interface,
    n the chains or interfaces of the same cluster or pair of clusters among the examples, and
    polymers and ligands are those of the chain or the two (AlphaFold 3 supplement, section 2.5.1).

    Attributes:
        choice: Every chain and interface.
        weight: [choice] of each.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self.choice: list[Choice] = []
        clusters: list[tuple[str, ...]] = []
        counted: list[float] = []
        for number, example in enumerate(examples):
            kinds = [chain["kind"] for chain in example.structure.facts["chains"]]
            pairs: list[list[int]] = example.structure["interface_chains"].tolist()
            for focus in [*((chain,) for chain in range(len(kinds))), *map(tuple, pairs)]:
                self.choice.append(Choice(number, focus))
                clusters.append(tuple(sorted(example.clusters[chain] for chain in focus)))
                molecules = [_POLYMER if kinds[chain] in _POLYMERS else _LIGAND for chain in focus]
                counted.append((_CHAIN if len(focus) == 1 else _INTERFACE) * sum(molecules))
        _, cluster, members = np.unique(
            np.array(["/".join(each) for each in clusters]), return_inverse=True, return_counts=True
        )
        self.weight: NDArray[np.float64] = np.array(counted) / members[cluster]
        self._cumulative = np.cumsum(self.weight)

    def choices(self, seed: int, step: int, place: int) -> Iterator[Choice]:
        """See `Sampling`."""
        found = np.array(Draw(seed, "example", step, place).fractions(DRAWS), np.float64)
        heights = found * 2.0**-64 * self._cumulative[-1]
        numbers = np.searchsorted(self._cumulative, heights, side="right")
        last = len(self.choice) - 1
        for number in dict.fromkeys(np.minimum(numbers, last).tolist()):
            yield self.choice[number]


class Epochs:
    """Every example once before any comes again, in an order drawn for each epoch.

    A place counts on through the batches: its epoch is what it counts to, divided by how many
    examples there are.
    """

    def __init__(self, examples: int, total: int) -> None:
        self._examples, self._total = examples, total

    def choices(self, seed: int, step: int, place: int) -> Iterator[Choice]:
        """See `Sampling`."""
        epoch, position = divmod(step * self._total + place, self._examples)
        first = int(_order(seed, epoch, self._examples)[position])
        others = Draw(seed, "example", step, place).fractions(DRAWS)
        for number in dict.fromkeys([first, *(u * self._examples >> 64 for u in others)]):
            yield Choice(number)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return Draw(seed, "epoch", epoch).permutation(count)
