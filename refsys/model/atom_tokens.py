"""Sums over the atoms of tokens, and tokens broadcast to their atoms.

A rank's atoms belong to an interval of tokens that other ranks own in part.

Shape suffixes: B batch, D diffusion samples, A owned atoms, E all atoms, C channels, T token width,
R owned tokens, N all tokens, M tokens of the owned atoms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.model.initialization import he
from refsys.model.layers import Linear
from refsys.parallel import Layout
from refsys.precision import Precision


class TokenSums(nn.Module):
    """Line 16 of Algorithm 5: mean over the atoms of a token, after projection and ReLU."""

    def __init__(self, c_atom: int, c_token: int, precision: Precision) -> None:
        super().__init__()
        self.linear = Linear(c_atom, c_token, initializer=he, precision=precision)
        self.accumulation = precision.accumulation

    def forward(self, q_BDAC: Tensor, batch: Batch, layout: Layout) -> Tensor:
        """Return tokens [B, D, R, T]; zero for tokens without atoms."""
        mask_BE1 = batch["atom_mask"].unsqueeze(-1)
        mask_BA1 = layout.local_atoms(mask_BE1, 1)
        values_BDAT = F.relu(self.linear(q_BDAC)) * mask_BA1.unsqueeze(1)
        first, last = layout.atom_tokens
        sums_BDMT = sum_by_token(
            values_BDAT.to(self.accumulation), token_in_interval(batch, layout), last - first
        )
        sums_BDRT = layout.named("tokens_and_atoms").sum_to_tokens(sums_BDMT, 2)
        counts_B1N1 = sum_by_token(
            mask_BE1.to(self.accumulation).unsqueeze(1), batch["atom_token"], batch.sizes["token"]
        )
        counts_B1R1 = layout.local(counts_B1N1, 2)
        return (sums_BDRT / counts_B1R1.clamp(min=1.0)).to(q_BDAC.dtype)


def sum_by_token(x_BDAC: Tensor, token_BA: Tensor, tokens: int) -> Tensor:
    """Sum over the atoms of each token, [B, D, A, C] → [B, D, N, C], ignoring token −1."""
    # Atoms without a token are added to one spare token, which is cut off.
    target_BA = torch.where(token_BA < 0, tokens, token_BA).long()
    index = target_BA[:, None, :, None].expand_as(x_BDAC)
    out = x_BDAC.new_zeros(*x_BDAC.shape[:2], tokens + 1, x_BDAC.shape[-1])
    return out.scatter_add(2, index, x_BDAC)[:, :, :tokens]


def of_tokens(x_BDRC: Tensor, batch: Batch, layout: Layout) -> Tensor:
    """Broadcast tokens to their atoms, [B, D, R, C] → [B, D, A, C]; padding reads any token."""
    x_BDMC = layout.named("tokens_and_atoms").tokens_of_atoms(x_BDRC, 2)
    index = token_in_interval(batch, layout).clamp(min=0).long()[:, None, :, None]
    return x_BDMC.gather(2, index.expand(-1, x_BDMC.shape[1], -1, x_BDMC.shape[-1]))


def owned_atoms(batch: Batch, layout: Layout) -> Batch:
    """Return the batch with the owned atoms alone."""
    if layout.is_unsharded:
        return batch
    return batch.narrowed("atom", layout.atom_start, layout.atom_stop)


def token_in_interval(batch: Batch, layout: Layout) -> Tensor:
    """Return [B, A], the token of each owned atom, from the first token of any of them."""
    token_BA = layout.local_atoms(batch["atom_token"], 1)
    if layout.is_unsharded:
        return token_BA
    return torch.where(token_BA < 0, token_BA, token_BA - layout.atom_tokens[0])
