"""Random atoms for random batches."""

import torch

from refsys.batch import (
    ATOM_FIELDS,
    ATOM_WINDOW,
    LABEL_FIELDS,
    TEMPLATE_FIELDS,
    TRUNK_FIELDS,
    Batch,
)


def with_atoms(batch: Batch, seed: int = 11, least: int = 1, most: int = 9) -> Batch:
    """Return the batch with `least` to `most` atoms for each token, padded to full windows."""
    g = torch.Generator().manual_seed(seed)
    examples, tokens = batch["token_mask"].shape
    counts = torch.randint(least, most + 1, (tokens,), generator=g)
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
    full = Batch({**batch, **fields}, (*TRUNK_FIELDS, *ATOM_FIELDS))
    return full.padded(atom=-(-atoms // ATOM_WINDOW) * ATOM_WINDOW)


def with_labels(batch: Batch, seed: int = 12) -> Batch:
    """Return the batch with random labels: all molecule types, some atoms unresolved."""
    g = torch.Generator().manual_seed(seed)
    examples, tokens = batch["token_mask"].shape
    token, mask = batch["atom_token"].long(), batch["atom_mask"]
    atoms = token.shape[1]
    center = 10 * torch.randn(examples, tokens, 3, generator=g)
    token_position = center.gather(1, token.clamp(min=0).unsqueeze(-1).expand(-1, -1, 3))
    first = torch.stack(
        [
            torch.searchsorted(row[keep], torch.arange(tokens))
            for row, keep in zip(token, mask, strict=True)
        ]
    )
    count = torch.stack(
        [torch.bincount(row[keep], minlength=tokens) for row, keep in zip(token, mask, strict=True)]
    )
    frame = torch.stack([first, first + 1, first + 2], dim=-1)
    pairs = torch.randint(0, int(mask.sum(1).min()), (examples, 4, 2), generator=g).int()
    pairs[:, -1] = -1
    resolved = (torch.rand(examples, atoms, generator=g) > 0.15) & mask
    fields = {
        "atom_position": (token_position + 1.5 * torch.randn(examples, atoms, 3, generator=g))
        * resolved.unsqueeze(-1),
        "atom_resolved": resolved,
        "atom_slot": ((torch.arange(atoms) - first.gather(1, token.clamp(min=0))) * mask).to(
            torch.uint8
        ),
        "molecule": torch.randint(0, 4, (examples, tokens), generator=g).to(torch.uint8),
        "center_atom": first.int(),
        "representative_atom": (first + count - 1).int(),
        "frame_atoms": torch.where(count.unsqueeze(-1) >= 3, frame, -1).int(),
        "ligand_bonds": pairs,
        "resolution": torch.full((examples,), 2.0),
    }
    return Batch({**batch, **fields}, (*batch.fields, *LABEL_FIELDS))


def with_templates(batch: Batch, count: int = 2, seed: int = 13) -> Batch:
    """Return the batch with random templates, the last one absent."""
    g = torch.Generator().manual_seed(seed)
    shape = (batch["token_mask"].shape[0], count, batch.sizes["token"])
    present = torch.arange(count) < max(1, count - 1)
    fields = {
        "template_mask": present.expand(shape[:2]).contiguous(),
        "template_residue_type": torch.randint(0, 22, shape, generator=g).to(torch.uint8),
        "template_pseudo_beta": 8 * torch.randn(*shape, 3, generator=g),
        "template_pseudo_beta_mask": torch.rand(shape, generator=g) > 0.2,
        "template_backbone": 8 * torch.randn(*shape, 3, 3, generator=g),
        "template_backbone_mask": torch.rand(shape, generator=g) > 0.2,
    }
    return Batch({**batch, **fields}, (*batch.fields, *TEMPLATE_FIELDS))
