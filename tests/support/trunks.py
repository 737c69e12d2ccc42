"""Small float64 trunks and random batches."""

import dataclasses

import torch

from refsys.batch import Batch
from refsys.config import PRESETS, ModelConfig
from refsys.model.context import Context
from refsys.model.trunk import Trunk
from refsys.parallel import Layout, SingleRank
from refsys.precision import PRECISIONS

FLOAT64 = PRECISIONS["float64"]
CONFIG: ModelConfig = dataclasses.replace(PRESETS["tiny"], msa_blocks=2)


def randomize(module: torch.nn.Module, seed: int = 5) -> None:
    """Set every parameter to a random value, so that zero-initialized updates take effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(noise * scale + (parameter.dim() == 1))


def random_trunk(config: ModelConfig = CONFIG) -> Trunk:
    trunk = Trunk(config, FLOAT64)
    randomize(trunk)
    return trunk


def random_batch(tokens: int, rows: int, batch: int = 1, seed: int = 3, cycles: int = 1) -> Batch:
    """Return a batch of two chains of one entity and a ligand, with two unmodelled tokens."""
    g = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, (batch, *shape), generator=g)

    index = torch.arange(tokens).expand(batch, tokens)
    chain = (index * 3 // tokens).int()
    ligand = chain == 2
    profile = torch.rand(batch, tokens, 31, generator=g)
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[:, 1:3] = False
    bonds = torch.stack([index[:, -4:-1], index[:, -3:]], dim=-1).int()
    return Batch(
        {
            "example": torch.arange(batch),
            "token_mask": torch.ones(batch, tokens, dtype=torch.bool),
            "residue_type": torch.where(ligand, 20, integers(20, tokens)).to(torch.uint8),
            "residue_index": torch.where(ligand, 1, index % max(1, tokens // 3) + 1).int(),
            "token_index": index.int(),
            "asym_id": chain,
            "entity_id": ligand.int(),
            "sym_id": (chain == 1).int(),
            "element": torch.where(ligand, 6, 0).to(torch.uint8),
            "profile": profile / profile.sum(-1, keepdim=True),
            "deletion_mean": torch.rand(batch, tokens, generator=g),
            "alignment": integers(22, cycles, rows, tokens).to(torch.uint8),
            "deletions": integers(4, cycles, rows, tokens).to(torch.uint8),
            "alignment_row_mask": torch.ones(batch, cycles, rows, dtype=torch.bool),
            "bonds": bonds,
            "pseudo_beta": 8 * torch.randn(batch, tokens, 3, generator=g),
            "pseudo_beta_mask": mask,
        }
    )


def context(batch: Batch, layout: Layout | None = None, **options: object) -> Context:
    layout = layout or whole(batch)
    return Context(layout=layout, example=batch["example"].unsqueeze(1), **options)


def whole(batch: Batch) -> SingleRank:
    """Return the layout of one rank that owns a batch."""
    return SingleRank(batch.sizes["token"], batch.sizes.get("atom", 0))
