"""Random atoms for random batches."""

import torch

from refsys.batch import ATOM_FIELDS, TRUNK_FIELDS, Batch
from refsys.model.atom_attention import QUERIES


def with_atoms(batch: Batch, seed: int = 11) -> Batch:
    """The batch with one to nine atoms for each token, padded to whole windows."""
    g = torch.Generator().manual_seed(seed)
    examples, tokens = batch["token_mask"].shape
    counts = torch.randint(1, 10, (tokens,), generator=g)
    token = torch.repeat_interleave(torch.arange(tokens), counts).int()
    atoms = len(token)

    def integers(high: int, *shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        return torch.randint(0, high, (examples, *shape), generator=g).to(dtype)

    fields = {
        "atom_mask": torch.ones(examples, atoms, dtype=torch.bool),
        "atom_token": token.expand(examples, atoms).contiguous(),
        "reference_position": torch.randn(examples, atoms, 3, generator=g),
        "reference_mask": integers(2, atoms, dtype=torch.bool),
        "reference_element": integers(50, atoms),
        "reference_charge": integers(3, atoms, dtype=torch.int8) - 1,
        "reference_name": integers(64, atoms, 4),
        "reference_space": (token // 2).expand(examples, atoms).contiguous(),
    }
    whole = Batch({**batch, **fields}, (*TRUNK_FIELDS, *ATOM_FIELDS))
    return whole.padded(atom=-(-atoms // QUERIES) * QUERIES)
