"""Synthetic batches: for shapes that reality does not offer, and for machines without data.

One protein chain of random residues along a random walk of 3.8 Å steps, with a random alignment. A
function of (seed, step) and of the sizes, like everything that is drawn.
"""

import numpy as np
import torch

from refsys.batch import Batch
from refsys.data.examples import BONDS_PER_TOKEN, ExampleSpec
from refsys.data.vocabulary import RESIDUE_CLASSES
from refsys.streams import Draw


def synthetic_batch(spec: ExampleSpec, step: int) -> Batch:
    """A batch that fills the spec's sizes."""
    return Batch.stacked([_example(spec, step, place) for place in range(spec.batch)])


def _example(spec: ExampleSpec, step: int, place: int) -> Batch:
    tokens, rows = spec.tokens, spec.alignment_rows

    def draw(name: str) -> Draw:
        return Draw(spec.seed, f"synthetic/{name}", step, place)

    codes = (draw("alignment").integers(rows * tokens) % 20).astype(np.uint8).reshape(rows, tokens)
    deletions = (draw("deletions").uniform(rows * tokens) < 0.02).reshape(rows, tokens)
    steps = draw("walk").normal(tokens * 3).reshape(tokens, 3)
    steps *= 3.8 / np.linalg.norm(steps, axis=1, keepdims=True)
    frequencies = np.eye(RESIDUE_CLASSES, dtype=np.float32)[codes].mean(axis=0)
    index = np.arange(tokens, dtype=np.int32)
    arrays = {
        "example": np.int64(place),
        "token_mask": np.ones(tokens, np.bool_),
        "residue_type": codes[0],
        "residue_index": index + 1,
        "token_index": index,
        "asym_id": np.zeros(tokens, np.int32),
        "entity_id": np.zeros(tokens, np.int32),
        "sym_id": np.zeros(tokens, np.int32),
        "element": np.zeros(tokens, np.uint8),
        "profile": frequencies,
        "deletion_mean": deletions.mean(axis=0, dtype=np.float32),
        "alignment": codes,
        "deletions": deletions.astype(np.uint8),
        "alignment_row_mask": np.ones(rows, np.bool_),
        "bonds": np.full((tokens * BONDS_PER_TOKEN, 2), -1, np.int32),
        "pseudo_beta": np.cumsum(steps, axis=0, dtype=np.float32),
        "pseudo_beta_mask": np.ones(tokens, np.bool_),
    }
    return Batch({name: torch.from_numpy(np.array(array)[None]) for name, array in arrays.items()})
