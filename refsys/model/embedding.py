"""Embeddings of the batch: tokens, MSA rows, relative positions, bonds, recycling.

Integer codes are embedded on the device by lookup, so that no one-hot tensor of pairs or of MSA
rows is built. The batch is small and replicated on every rank; the results are this rank's slab.

Shape suffixes: B batch, R owned tokens, N all tokens, S MSA rows, C pair channels, W width of the
single representation, I width of the input single representation, M MSA width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.model.context import Context
from refsys.model.initialization import zeros
from refsys.model.layers import LayerNorm, Linear, OneHotLinear
from refsys.parallel import Layout
from refsys.precision import Precision

RESIDUE_CLASSES = 31
ELEMENTS = 128


class TokenInputEmbedder(nn.Module):
    """Input single representation from token-level features only.

    It concatenates an embedding of residue type and element (in place of the token activations of
    the atom attention encoder of Algorithm 2), residue type, profile and deletion mean.
    """

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.linear = OneHotLinear(RESIDUE_CLASSES + ELEMENTS, config.c_s, precision=precision)
        self.dtype = precision.activations

    def forward(self, batch: Batch, layout: Layout) -> Tensor:
        """Return the input single representation [B, R, I]."""
        codes = layout.local(batch["residue_type"], axis=1)
        elements = layout.local(batch["element"], axis=1)
        classes = torch.arange(RESIDUE_CLASSES, device=codes.device)
        tokens = self.linear.lookup(codes, 0, self.dtype)
        tokens = tokens + self.linear.lookup(elements, RESIDUE_CLASSES, self.dtype)
        return torch.cat(
            [
                tokens,
                # F.one_hot would synchronize: it reads the largest code back to check it.
                (codes.unsqueeze(-1) == classes).to(self.dtype),
                layout.local(batch["profile"], axis=1).to(self.dtype),
                layout.local(batch["deletion_mean"], axis=1).unsqueeze(-1).to(self.dtype),
            ],
            dim=-1,
        )


class RelativePosition(NamedTuple):
    """Relative position codes of each pair of tokens (Algorithm 3).

    Attributes:
        residue_BRN: Bin of the residue offset.
        token_BRN: Bin of the token offset within the residue.
        same_entity_BRN: Whether both tokens belong to the same entity.
        chain_BRN: Bin of the offset between copies of the entity.
    """

    residue_BRN: Tensor
    token_BRN: Tensor
    same_entity_BRN: Tensor
    chain_BRN: Tensor


def relative_position(config: ModelConfig, batch: Batch, layout: Layout) -> RelativePosition:
    """Return the codes of the owned rows (lines 1 to 9 of Algorithm 3)."""

    def offset(name: str, limit: int, valid: Tensor) -> Tensor:
        difference = local(name).unsqueeze(2) - batch[name].unsqueeze(1)
        return torch.where(valid, (difference + limit).clamp(0, 2 * limit), 2 * limit + 1)

    def local(name: str) -> Tensor:
        return layout.local(batch[name], axis=1)

    def same(name: str) -> Tensor:
        return local(name).unsqueeze(2) == batch[name].unsqueeze(1)

    same_chain, same_entity = same("asym_id"), same("entity_id")
    same_residue = same_chain & same("residue_index")
    return RelativePosition(
        offset("residue_index", config.max_relative_residue, same_chain),
        offset("token_index", config.max_relative_residue, same_residue),
        same_entity,
        offset("sym_id", config.max_relative_chain, same_entity),
    )


class RelativePositionEncoding(nn.Module):
    """Algorithm 3: residue, token and chain offsets of each pair of tokens."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.config = config
        self.linear = OneHotLinear(config.relative_position_width, config.c_z, precision=precision)
        self.dtype = precision.activations

    def forward(self, batch: Batch, layout: Layout) -> Tensor:
        """Return the encoding [B, R, N, C]."""
        return self.encode(relative_position(self.config, batch, layout))

    def encode(self, codes: RelativePosition) -> Tensor:
        """Return the encoding of some rows of pairs."""
        bins = 2 * self.config.max_relative_residue + 2
        lookup, dtype = self.linear.lookup, self.dtype
        encoding = lookup(codes.residue_BRN, 0, dtype) + lookup(codes.token_BRN, bins, dtype)
        encoding = encoding + self.linear.scaled(codes.same_entity_BRN, 2 * bins, dtype)
        return encoding + lookup(codes.chain_BRN, 2 * bins + 1, dtype)


class InitialEmbedding(nn.Module):
    """Initial single and pair representations (lines 1 to 6 of Algorithm 1)."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        c_i, c_z = config.c_s_inputs, config.c_z
        self.linear_s = Linear(c_i, config.c_s, precision=precision)
        self.linear_z_i = Linear(c_i, c_z, precision=precision)
        self.linear_z_j = Linear(c_i, c_z, precision=precision)
        self.relative_position = RelativePositionEncoding(config, precision)
        self.linear_bond = OneHotLinear(1, c_z, precision=precision)

    def forward(self, s_inputs_BRI: Tensor, batch: Batch, layout: Layout) -> tuple[Tensor, Tensor]:
        """Return the initial single [B, R, W] and pair [B, R, N, C] slabs."""
        z_j_BNC = layout.named("embedding").gather_tokens(self.linear_z_j(s_inputs_BRI), axis=1)
        z_BRNC = self.linear_z_i(s_inputs_BRI).unsqueeze(2) + z_j_BNC.unsqueeze(1)
        z_BRNC = z_BRNC + self.relative_position(batch, layout)
        bonded_BRN = bonded_rows(batch["bonds"], layout)
        z_BRNC = z_BRNC + self.linear_bond.scaled(bonded_BRN, 0, z_BRNC.dtype)
        return self.linear_s(s_inputs_BRI), z_BRNC

    def inputs(self, s_inputs_BRI: Tensor, batch: Batch, layout: Layout) -> "PairInputs":
        """Return what the initial pair slab follows from, which is much smaller; see `rows`."""
        z_j_BNC = layout.named("embedding").gather_tokens(self.linear_z_j(s_inputs_BRI), axis=1)
        codes = relative_position(self.relative_position.config, batch, layout)
        bonded_BRN = bonded_rows(batch["bonds"], layout)
        return PairInputs(self.linear_z_i(s_inputs_BRI), *codes, bonded_BRN, z_j_BNC)

    def rows(self, inputs: "PairInputs") -> Tensor:
        """Return rows [B, R, N, C] of the initial pair slab from those of its inputs."""
        z_BRNC = inputs.z_i_BRC.unsqueeze(2) + inputs.z_j_BNC.unsqueeze(1)
        codes = RelativePosition(
            inputs.residue_BRN, inputs.token_BRN, inputs.same_entity_BRN, inputs.chain_BRN
        )
        z_BRNC = z_BRNC + self.relative_position.encode(codes)
        return z_BRNC + self.linear_bond.scaled(inputs.bonded_BRN, 0, z_BRNC.dtype)


class PairInputs(NamedTuple):
    """Inputs of the initial pair slab; all but the last have its rows as axis 1."""

    z_i_BRC: Tensor
    residue_BRN: Tensor
    token_BRN: Tensor
    same_entity_BRN: Tensor
    chain_BRN: Tensor
    bonded_BRN: Tensor
    z_j_BNC: Tensor


def bonded_rows(bonds: Tensor, layout: Layout) -> Tensor:
    """Return [B, R, N] bool, True where owned token i and token j are bonded.

    Args:
        bonds: [B, bond, 2] token indices, −1 where padded.
        layout: Owned rows.
    """
    ends = bonds.long()
    rows = torch.cat([ends[..., 0], ends[..., 1]], dim=1) - layout.start
    columns = torch.cat([ends[..., 1], ends[..., 0]], dim=1)
    owned = layout.stop - layout.start
    # Padding and rows of other ranks are written to one spare element past the end of the slab.
    valid = (columns >= 0) & (rows >= 0) & (rows < owned)
    targets = torch.where(valid, rows * layout.tokens + columns, owned * layout.tokens)
    flat = torch.zeros(
        bonds.shape[0], owned * layout.tokens + 1, dtype=torch.bool, device=bonds.device
    )
    return flat.scatter(1, targets, True)[:, :-1].unflatten(1, (owned, layout.tokens))


class AlignmentEmbedding(nn.Module):
    """MSA rows plus the input single representation (lines 1 to 3 of Algorithm 8)."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        # 32 classes, a flag for a deletion, and the scaled number of deletions.
        self.linear_rows = OneHotLinear(34, config.c_m, precision=precision)
        self.linear_s = Linear(config.c_s_inputs, config.c_m, precision=precision)
        self.dtype = precision.activations
        self.features = precision.features

    def forward(self, s_inputs_BRI: Tensor, batch: Batch, layout: Layout, cycle: int = 0) -> Tensor:
        """Return the MSA representation [B, S, R, M] of the rows of a recycling iteration."""
        rows = layout.local(batch["alignment"][:, cycle], axis=2)
        deletions = layout.local(batch["deletions"][:, cycle], axis=2).to(self.features)
        linear = self.linear_rows
        m_BSRM = linear.lookup(rows, 0, self.dtype)
        m_BSRM = m_BSRM + linear.scaled(deletions > 0, 32, self.dtype)
        amount = (2.0 / math.pi) * torch.atan(deletions / 3.0)
        m_BSRM = m_BSRM + linear.scaled(amount, 33, self.dtype)
        return m_BSRM + self.linear_s(s_inputs_BRI).unsqueeze(1)


class RecyclingEmbedder(nn.Module):
    """Embedding of the previous cycle's representations (lines 8 and 11 of Algorithm 1)."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.norm_z = LayerNorm(config.c_z, precision)
        self.norm_s = LayerNorm(config.c_s, precision)
        self.linear_z = Linear(config.c_z, config.c_z, initializer=zeros, precision=precision)
        self.linear_s = Linear(config.c_s, config.c_s, initializer=zeros, precision=precision)

    def forward(self, s_BRW: Tensor, z_BRNC: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Return the embedded single and pair slabs of the previous cycle."""
        return self.single(s_BRW), context.by_rows(self.pairs, z_BRNC)

    def single(self, s_BRW: Tensor) -> Tensor:
        """Return the embedded single slab of the previous cycle."""
        return self.linear_s(s_BRW, norm=self.norm_s)

    def pairs(self, z_BRNC: Tensor) -> Tensor:
        """Return embedded rows of the pair slab of the previous cycle."""
        return self.linear_z(z_BRNC, norm=self.norm_z)
