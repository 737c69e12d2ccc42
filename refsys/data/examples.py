"""From prepared records to a batch: crop first, gather after.

Everything random is drawn from streams keyed by (seed, step, place in the batch): which example it
is, its crop, its alignment rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.batch import TRUNK_FIELDS, Batch
from refsys.data.columns import Columns
from refsys.data.crop import CROPS, crop_tokens
from refsys.data.store import Example, Store
from refsys.data.vocabulary import GAP, RESIDUE_CLASSES
from refsys.errors import ArgumentError, DataError
from refsys.streams import Draw

BONDS_PER_TOKEN = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSpec:
    """What decides a batch beside the example itself.

    Attributes:
        tokens: Crop, and size of the token axis.
        alignment_rows: Size of the alignment axis; the query is row 0.
        batch: Examples in a batch.
        crop: See `refsys.data.crop.CROPS`.
        seed: Seed of all streams.
    """

    tokens: int
    alignment_rows: int
    batch: int = 1
    crop: str = "mixed"
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ArgumentError: a size is not positive, or the kind of crop does not exist.
        """
        for name in ("tokens", "alignment_rows", "batch"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} is less than 1")
        if self.crop not in CROPS:
            raise ArgumentError(
                f"crop={self.crop!r} does not exist; choose one of {', '.join(CROPS)}"
            )


class Examples:
    """Batches as a function of the step."""

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

    def records(self) -> dict[str, dict[str, str]]:
        """What the batches are made of: names of records, which name their content, by entry."""
        return {example.entry: example.records() for example in self._examples}

    def __getitem__(self, step: int) -> Batch:
        """The batch of a training step."""
        return Batch.stacked([self._example(step, place) for place in range(self.spec.batch)])

    def _example(self, step: int, place: int) -> Batch:
        choice = Draw(self.spec.seed, "example", step, place).below(len(self._examples))
        return example_batch(self._examples[choice], self.spec, step, place)


def example_batch(example: Example, spec: ExampleSpec, step: int, place: int = 0) -> Batch:
    """One example, cropped and padded to the spec's sizes, as it is drawn for a place in a batch.

    Raises:
        DataError: a record is damaged, or the crop has more bonds than a batch can hold.
    """
    structure = example.structure
    center = structure["token_center"]
    positions = structure["atom_position"][np.maximum(center, 0)]
    kept = crop_tokens(
        spec.crop,
        structure["token_chain"],
        positions,
        center >= 0,
        spec.tokens,
        Draw(spec.seed, "crop", step, place),
    )
    columns = {
        name: structure[f"token_{name}"][kept]
        for name in ("residue_type", "residue_index", "chain", "entity", "symmetry", "element")
    }
    representative = structure["token_representative"][kept]
    rows = _alignment_rows(example, kept, columns, spec, Draw(spec.seed, "rows", step, place))
    arrays = {
        "example": np.int64(place),
        "token_mask": np.ones(len(kept), np.bool_),
        "residue_type": columns["residue_type"],
        "residue_index": columns["residue_index"],
        "token_index": kept.astype(np.int32),
        "asym_id": columns["chain"],
        "entity_id": columns["entity"],
        "sym_id": columns["symmetry"],
        "element": columns["element"],
        **rows,
        "bonds": _token_bonds(example, kept, spec.tokens * BONDS_PER_TOKEN),
        "pseudo_beta": structure["atom_position"][np.maximum(representative, 0)],
        "pseudo_beta_mask": representative >= 0,
    }
    dtypes = {field.name: field.dtype for field in TRUNK_FIELDS}
    tensors: dict[str, Tensor] = {
        name: torch.from_numpy(np.array(array)[None]).to(dtypes[name])
        for name, array in arrays.items()
    }
    return Batch(tensors).padded(
        token=spec.tokens,
        alignment_row=spec.alignment_rows,
        bond=spec.tokens * BONDS_PER_TOKEN,
    )


def _alignment_rows(
    example: Example,
    kept: NDArray[np.int64],
    columns: dict[str, NDArray[np.int32]],
    spec: ExampleSpec,
    draw: Draw,
) -> dict[str, NDArray[np.generic]]:
    """Alignment fields: the query, then each chain's rows in random order, side by side.

    Tokens without an alignment (atoms, nucleotides) have the query in row 0, gaps below it, and
    their own class as profile.
    """
    residue_type = columns["residue_type"]
    drawn: dict[int, NDArray[np.int64]] = {}
    for number in np.unique(columns["chain"]):
        alignment = example.alignments.get(int(number))
        if alignment is not None:
            drawn[int(number)] = _draw_rows(alignment, spec.alignment_rows, draw, int(number))
    depth = max((len(rows) for rows in drawn.values()), default=1)
    codes = np.full((depth, len(kept)), GAP, np.uint8)
    codes[0] = residue_type
    deletions = np.zeros((depth, len(kept)), np.uint8)
    profile = np.eye(RESIDUE_CLASSES, dtype=np.float32)[residue_type]
    deletion_mean = np.zeros(len(kept), np.float32)
    for number, rows in drawn.items():
        alignment = example.alignments[number]
        here = np.flatnonzero(columns["chain"] == number)
        place = columns["residue_index"][here] - 1
        codes[: len(rows), here] = alignment["codes"][rows[:, None], place]
        deletions[: len(rows), here] = alignment["deletions"][rows[:, None], place]
        profile[here] = alignment["profile"][place]
        deletion_mean[here] = alignment["deletion_mean"][place]
    return {
        "alignment": codes,
        "deletions": deletions,
        "alignment_row_mask": np.ones(depth, np.bool_),
        "profile": profile,
        "deletion_mean": deletion_mean,
    }


def _draw_rows(alignment: Columns, rows: int, draw: Draw, chain: int) -> NDArray[np.int64]:
    """The query and `rows` − 1 others without replacement, or all of them."""
    others = Draw(draw.seed, f"{draw.stream}/{chain}", draw.step, draw.example).permutation(
        len(alignment["codes"]) - 1
    )
    return np.concatenate([[0], 1 + others[: rows - 1]])


def _token_bonds(example: Example, kept: NDArray[np.int64], capacity: int) -> NDArray[np.int32]:
    """Pairs of crop tokens with a bond between two of their atoms, at least one an atom token."""
    structure = example.structure
    place = np.full(example.tokens, -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    tokens = structure["atom_token"][structure["bond_atoms"]]
    atomic = structure["token_element"][tokens] > 0
    tokens = tokens[(tokens[:, 0] != tokens[:, 1]) & atomic.any(axis=1)]
    pairs = place[tokens]
    pairs = np.unique(np.sort(pairs[(pairs >= 0).all(axis=1)], axis=1), axis=0)
    if len(pairs) > capacity:
        raise DataError(
            f"{example.entry}: {len(pairs)} bonds in a crop of {len(kept)} tokens; "
            f"a batch holds {capacity}"
        )
    return pairs.astype(np.int32).reshape(-1, 2)
