"""Sampling of the example at each index of a batch, and of the chains at the centre of its crop."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refsys.data.store.store import Example
from refsys.errors import ArgumentError
from refsys.streams import Draw

# Chains and interfaces by their weights, or each example once per epoch.
WEIGHTED, EPOCHS = SAMPLINGS = ("weighted", "epochs")

# Examples that are tried at one index before the batch is given up.
DRAWS = 16

# Weights of a chain, an interface and their molecules (AlphaFold 3 supplement, section 2.5.1).
_CHAIN, _INTERFACE = 0.5, 1.0
_POLYMER, _LIGAND = 3.0, 1.0
_POLYMERS = frozenset({"protein", "rna", "dna"})


class Choice(NamedTuple):
    """Number of an example, and the chain, or the two chains in contact, at the crop's centre."""

    example: int
    focus: tuple[int, ...] = ()


class Sampling(Protocol):
    """Strategy for sampling the examples of a batch."""

    def choices(self, seed: int, step: int, index: int) -> Iterator[Choice]:
        """Yield the example at an index of a step's batch, then substitutes if it cannot be used.

        Args:
            seed: Seed of the streams.
            step: Training step (RNG key).
            index: Index in the global batch (RNG key).
        """


def sampling(name: str, examples: Sequence[Example], total: int) -> Sampling:
    """Return a sampling strategy by name.

    Args:
        name: One of `SAMPLINGS`.
        examples: The examples to sample from.
        total: Size of the global batch.

    Raises:
        ArgumentError: the name is none of `SAMPLINGS`.
    """
    if name == WEIGHTED:
        return Weighted(examples)
    if name == EPOCHS:
        return Epochs(len(examples), total)
    raise ArgumentError(f"sampling={name!r} does not exist; choose one of {', '.join(SAMPLINGS)}")


class Weighted:
    """Sampling of chains and interfaces, each with a probability proportional to its weight.

    The weight is β / n · (3 polymers + ligands), where β is ½ for a chain and 1 for an interface,
    n is the number of chains or interfaces of the same cluster or pair of clusters, and polymers
    and ligands count the molecules of the chain or pair (AlphaFold 3 supplement, section 2.5.1).

    Attributes:
        choice: All chains and interfaces of the examples.
        weight: [choice] float64 weights, not normalized.
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
            np.array(["/".join(names) for names in clusters]),
            return_inverse=True,
            return_counts=True,
        )
        self.weight: NDArray[np.float64] = np.array(counted) / members[cluster]
        self._cumulative = np.cumsum(self.weight)

    def choices(self, seed: int, step: int, index: int) -> Iterator[Choice]:
        """See `Sampling`."""
        fractions = np.array(Draw(seed, "example", step, index).fractions(DRAWS), np.float64)
        heights = fractions * 2.0**-64 * self._cumulative[-1]
        numbers = np.searchsorted(self._cumulative, heights, side="right")
        last = len(self.choice) - 1
        for number in dict.fromkeys(np.minimum(numbers, last).tolist()):
            yield self.choice[number]


class Epochs:
    """Sampling of every example once per epoch, in a random order of each epoch.

    Indices count on from batch to batch: the epoch is the running count divided by the number of
    examples.
    """

    def __init__(self, examples: int, total: int) -> None:
        self._examples, self._total = examples, total

    def choices(self, seed: int, step: int, index: int) -> Iterator[Choice]:
        """See `Sampling`."""
        epoch, position = divmod(step * self._total + index, self._examples)
        first = int(_order(seed, epoch, self._examples)[position])
        substitutes = Draw(seed, "example", step, index).fractions(DRAWS)
        for number in dict.fromkeys([first, *(u * self._examples >> 64 for u in substitutes)]):
            yield Choice(number)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return Draw(seed, "epoch", epoch).permutation(count)
