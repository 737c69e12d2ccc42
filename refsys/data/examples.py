"""From prepared records to a batch: crop first, gather after.

Everything random is drawn from streams keyed by (seed, step, place in the batch): which example it
is, its crop, its alignment rows, its templates, the motions of its conformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.batch import ALPHAFOLD3_FIELDS, TRUNK_FIELDS, Batch, Field
from refsys.data.alignment_features import alignment_arrays
from refsys.data.atom_features import LIGAND_BONDS, atom_arrays, crop_atoms, template_arrays
from refsys.data.crop import CROPS, crop_tokens
from refsys.data.labels import symmetries_of, with_labels_of
from refsys.data.store import Example, Store
from refsys.errors import ArgumentError, CapacityError, DataError
from refsys.label_permutation import Symmetries
from refsys.model.atom_attention import QUERIES
from refsys.streams import Draw

BONDS_PER_TOKEN = 2
# Crops differ in their atoms: sizes in steps keep the number of different shapes small.
ATOM_STEP = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleSpec:
    """What decides a batch beside the example itself.

    Attributes:
        tokens: Crop, and size of the token axis.
        alignment_rows: Size of the alignment axis; the query is row 0.
        batch: Examples in a batch.
        first: Place of the first of them in the whole batch, of which other ranks hold the rest.
        crop: See `refsys.data.crop.CROPS`.
        seed: Seed of all streams.
        whole: Whether the whole model's fields are wanted: atoms, templates, labels.
        atoms: Size of the atom axis; 0 is what the crop has, in steps of `ATOM_STEP`.
        templates: Size of the template axis.
    """

    tokens: int
    alignment_rows: int
    batch: int = 1
    first: int = 0
    crop: str = "mixed"
    seed: int = 0
    whole: bool = False
    atoms: int = 0
    templates: int = 4

    @property
    def places(self) -> range:
        """The places of its examples in the whole batch."""
        return range(self.first, self.first + self.batch)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of its batches."""
        return ALPHAFOLD3_FIELDS if self.whole else TRUNK_FIELDS

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ArgumentError: a size is not positive, the atoms do not fill their windows, or the kind
                of crop does not exist.
        """
        if self.atoms % QUERIES or self.atoms < 0:
            raise ArgumentError(f"atoms={self.atoms} is not a multiple of the window, {QUERIES}")
        for name in ("tokens", "alignment_rows", "batch"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}={getattr(self, name)} is less than 1")
        if self.crop not in CROPS:
            raise ArgumentError(
                f"crop={self.crop!r} does not exist; choose one of {', '.join(CROPS)}"
            )


# So many examples are drawn for a place before it is given up.
_DRAWS = 16


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a place of a batch holds.

    Attributes:
        example: Its records.
        substituted: Why each of the examples that were drawn before it could not be used.
    """

    example: Example
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
        self._symmetries: dict[str, Symmetries] = {}
        self._latest: _Latest | None = None

    def records(self) -> dict[str, dict[str, str]]:
        """What the batches are made of: names of records, which name their content, by entry."""
        return {example.entry: example.records() for example in self._examples}

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

    def remember(self, step: int, entries: Sequence[str], batch: Batch) -> None:
        """Takes a batch that another process made, so that `relabelled` need not make it again.

        Args:
            step: Whose it is.
            entries: What each place of it holds.
            batch: On the host.
        """
        by_entry = {example.entry: example for example in self._examples}
        self._latest = _Latest(step, [Drawn(by_entry[entry]) for entry in entries], batch)

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
            example = drawn.example
            if example.entry not in self._symmetries:
                self._symmetries[example.entry] = symmetries_of(example.structure)
            rows = crop_atoms(example, crop_of(example, self.spec, step, place))
            symmetries = self._symmetries[example.entry]
            fields = with_labels_of(host, row, rows, predicted[row], symmetries)
            for name, values in fields.items():
                new.setdefault(name, []).append(values)
        return batch.replaced(**{name: torch.stack(values) for name, values in new.items()})

    def _example(self, step: int, place: int) -> tuple[Drawn, Batch]:
        draw = Draw(self.spec.seed, "example", step, place)
        choices = (number * len(self._examples) >> 64 for number in draw.fractions(_DRAWS))
        unusable: list[CapacityError] = []
        for choice in dict.fromkeys(choices):
            example = self._examples[choice]
            try:
                batch = example_batch(example, self.spec, step, place)
            except CapacityError as error:
                unusable.append(error)
            else:
                return Drawn(example, tuple(map(str, unusable))), batch
        raise unusable[0]


def example_batch(example: Example, spec: ExampleSpec, step: int, place: int = 0) -> Batch:
    """One example, cropped and padded to the spec's sizes, as it is drawn for a place in a batch.

    Raises:
        CapacityError: the crop has more atoms or bonds than a batch can hold.
        DataError: a record is damaged.
    """
    making = Making(example, spec, step, place)
    for stage in making.stages:
        making.run(stage)
    assert making.batch is not None, "the last stage makes it"
    return making.batch


class Making:
    """A batch of one example in the making, stage by stage.

    Attributes:
        stages: Names of the stages, in order.
        batch: The batch, once the last of them has run.
    """

    def __init__(self, example: Example, spec: ExampleSpec, step: int, place: int = 0) -> None:
        self._example, self._spec = example, spec
        self._step, self._place = step, place
        self._kept: NDArray[np.int64] = np.empty(0, np.int64)
        self._arrays: dict[str, NDArray[Any]] = {}
        self.stages = stages_of(spec)
        self.batch: Batch | None = None

    def run(self, stage: str) -> None:
        """Runs a stage.

        Raises:
            CapacityError: the crop has more atoms or bonds than a batch can hold.
            DataError: a record is damaged.
        """
        getattr(self, f"_{stage}")()

    def _crop(self) -> None:
        self._kept = crop_of(self._example, self._spec, self._step, self._place)

    def _tokens(self) -> None:
        structure, kept = self._example.structure, self._kept
        columns = {
            name: structure[f"token_{name}"][kept]
            for name in ("residue_type", "residue_index", "chain", "entity", "symmetry", "element")
        }
        representative = structure["token_representative"][kept]
        there = np.maximum(representative, 0)
        seen = (representative >= 0) & structure["atom_resolved"][there]
        self._arrays |= {
            "example": np.asarray(self._place, np.int64),
            "token_mask": np.ones(len(kept), np.bool_),
            "residue_type": columns["residue_type"],
            "residue_index": columns["residue_index"],
            "token_index": kept.astype(np.int32),
            "asym_id": columns["chain"],
            "entity_id": columns["entity"],
            "sym_id": columns["symmetry"],
            "element": columns["element"],
            "bonds": _token_bonds(self._example, kept, self._spec.tokens * BONDS_PER_TOKEN),
            "pseudo_beta": structure["atom_position"][there] * seen[:, None],
            "pseudo_beta_mask": seen,
        }

    def _alignment(self) -> None:
        rows = self._spec.alignment_rows
        self._arrays |= alignment_arrays(self._example, self._kept, rows, self._draw("rows"))

    def _atoms(self) -> None:
        self._arrays |= atom_arrays(self._example, self._kept, self._draw("conformer"))

    def _templates(self) -> None:
        count, draw = self._spec.templates, self._draw("templates")
        self._arrays |= template_arrays(self._example, self._kept, count, draw)

    def _pad(self) -> None:
        spec = self._spec
        sizes = {
            "token": spec.tokens,
            "alignment_row": spec.alignment_rows,
            "bond": spec.tokens * BONDS_PER_TOKEN,
        }
        if spec.whole:
            atoms = len(self._arrays["atom_mask"])
            sizes |= {"atom": _atom_axis(self._example, spec, atoms), "ligand_bond": LIGAND_BONDS}
        dtypes = {field.name: field.dtype for field in spec.fields}
        tensors: dict[str, Tensor] = {
            name: torch.from_numpy(np.array(array)[None]).to(dtypes[name])
            for name, array in self._arrays.items()
        }
        self.batch = Batch(tensors, spec.fields).padded(**sizes)

    def _draw(self, stream: str) -> Draw:
        return Draw(self._spec.seed, stream, self._step, self._place)


def stages_of(spec: ExampleSpec) -> tuple[str, ...]:
    """The stages of making a batch, in order."""
    whole = ("atoms", "templates") if spec.whole else ()
    return ("crop", "tokens", "alignment", *whole, "pad")


def crop_of(example: Example, spec: ExampleSpec, step: int, place: int) -> NDArray[np.int64]:
    """The tokens that a place in a batch holds of an example, ascending."""
    structure = example.structure
    center = structure["token_center"]
    there = np.maximum(center, 0)
    return crop_tokens(
        spec.crop,
        structure["token_chain"],
        structure["atom_position"][there],
        (center >= 0) & structure["atom_resolved"][there],
        structure["token_interface"],
        spec.tokens,
        Draw(spec.seed, "crop", step, place),
    )


def _atom_axis(example: Example, spec: ExampleSpec, atoms: int) -> int:
    if not spec.atoms:
        return max(1, -(-atoms // ATOM_STEP)) * ATOM_STEP
    if atoms > spec.atoms:
        raise CapacityError(
            f"{example.entry}: {atoms} atoms in a crop of {spec.tokens} tokens; "
            f"a batch holds {spec.atoms}"
        )
    return spec.atoms


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
        raise CapacityError(
            f"{example.entry}: {len(pairs)} bonds in a crop of {len(kept)} tokens; "
            f"a batch holds {capacity}"
        )
    return pairs.astype(np.int32).reshape(-1, 2)
