"""Attention among atoms, in windows along the sequence (Algorithms 5, 6 and 7).

Atoms are in sequence order and padded to a multiple of 32. Each window of 32 query atoms attends to
128 key atoms with the same centre, 48 beyond either end. Keys beyond the ends of the sequence are
masked, so that no atom attends further than 48 atoms beyond its window.

Tensors that do not depend on the noise (the conditioning of atoms and atom pairs, the pair biases)
have one sample, which broadcasts over the samples of the activations.

A rank computes the windows of its own atoms. Features of the batch are replicated; activations of
atoms that keys are taken from are exchanged with the neighbouring ranks.

Shape suffixes: B batch, D diffusion samples (one if shared), A owned atoms, E all atoms, W windows,
Q the 32 queries and K the 128 keys of a window, C atom width, P atom pair width, T token width, H
heads, R owned tokens, N all tokens, M tokens of the owned atoms, U tokens of their keys.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refsys.batch import ATOM_HALO, ATOM_KEYS, ATOM_WINDOW, Batch
from refsys.config import ModelConfig
from refsys.model.atom_tokens import TokenSums, of_tokens, owned_atoms, token_in_interval
from refsys.model.conditioning import (
    AdaptiveLayerNorm,
    ConditionedTransition,
    NormConditioning,
    TransitionConditioning,
    ZeroGate,
)
from refsys.model.context import Context
from refsys.model.initialization import he, zeros
from refsys.model.layers import Linear, OneHotLinear, ScaledLayerNorm
from refsys.ops.triangle_attention import triangle_attention
from refsys.parallel import Layout
from refsys.parallel.blocks import Block
from refsys.precision import Precision

# Width of the reference features: position, mask, element, charge, and four letters of 64 kinds.
ELEMENTS = 128
NAME_LETTERS, NAME_KINDS = 4, 64
REFERENCE_WIDTH = 3 + 1 + ELEMENTS + 1 + NAME_LETTERS * NAME_KINDS


def query_windows(x: Tensor, axis: int) -> Tensor:
    """Split the atom axis into windows of queries: […, A, …] → […, W, Q, …]."""
    return x.unflatten(axis, (-1, ATOM_WINDOW))


def key_windows(x: Tensor, axis: int, layout: Layout) -> Tensor:
    """Return the keys of each window, […, A, …] → […, W, K, …]; zero beyond the ends."""
    return _windows(layout.halo(x, axis, ATOM_HALO), axis)


def feature_key_windows(x: Tensor, axis: int, layout: Layout) -> Tensor:
    """Return the keys of each window from a feature of all atoms, […, E, …] → […, W, K, …]."""
    return _windows(layout.local_halo(x, axis, ATOM_HALO), axis)


def _windows(x: Tensor, axis: int) -> Tensor:
    return x.unfold(axis, ATOM_KEYS, ATOM_WINDOW).movedim(-1, axis + 1)


class AtomConditioning(NamedTuple):
    """Conditioning of the atom transformers.

    Attributes:
        single_B1AC: Conditioning of each atom.
        pair_BWQKP: Conditioning of each query and key.
    """

    single_B1AC: Tensor
    pair_BWQKP: Tensor


class AtomBlockConditioning(NamedTuple):
    """Conditioning of one block, shared by all samples and noise levels."""

    queries: NormConditioning
    keys: NormConditioning
    gate_B1AC: Tensor
    transition: TransitionConditioning
    bias_BWHQK: Tensor


class AtomTransformerBlock(Block):
    """One block of Algorithm 7, with separate adaptive norms of queries and keys."""

    entries = ("condition",)
    repeated = True

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        width = config.c_atom
        self.heads = config.atom_heads
        self.norm_q = AdaptiveLayerNorm(width, width, precision)
        self.norm_k = AdaptiveLayerNorm(width, width, precision)
        self.linear_q = Linear(width, width, bias=True, precision=precision)
        self.linear_kv = Linear(width, 2 * width, precision=precision)
        self.linear_gate = Linear(width, width, initializer=zeros, precision=precision)
        self.linear_out = Linear(width, width, precision=precision)
        self.gate = ZeroGate(width, width, precision)
        self.transition = ConditionedTransition(width, width, precision)
        self.softmax = precision.softmax

    def condition(self, condition_B1AC: Tensor, bias_BWHQK: Tensor) -> AtomBlockConditioning:
        """Compute the conditioning of this block."""
        return AtomBlockConditioning(
            self.norm_q.condition(condition_B1AC),
            self.norm_k.condition(condition_B1AC),
            self.gate(condition_B1AC),
            self.transition.condition(condition_B1AC),
            bias_BWHQK,
        )

    def forward(
        self,
        q_BDAC: Tensor,
        conditioning: AtomBlockConditioning,
        mask_BWK: Tensor,
        context: Context,
    ) -> Tensor:
        """Return the updated atoms of every sample."""
        layout = context.layout.named("atom_attention")
        x_BDAC = self.norm_q(q_BDAC, conditioning.queries)
        k_BDAC, v_BDAC = self.linear_kv(self.norm_k(q_BDAC, conditioning.keys)).chunk(2, dim=-1)
        queries = self._by_window(query_windows(self.linear_q(x_BDAC), axis=2))
        keys = self._by_window(key_windows(k_BDAC, 2, layout))
        values = self._by_window(key_windows(v_BDAC, 2, layout))
        samples = q_BDAC.shape[1]
        mask = mask_BWK.flatten(0, 1).unsqueeze(1).expand(-1, samples, -1)
        # To the operator, a window is an example and its samples are the rows that share a bias.
        out = triangle_attention(
            queries, keys, values, conditioning.bias_BWHQK.flatten(0, 1), mask, softmax=self.softmax
        )
        out_BWDQC = out.flatten(-2).unflatten(0, (q_BDAC.shape[0], -1))
        out_BDAC = out_BWDQC.movedim(2, 1).flatten(2, 3)
        update_BDAC = self.linear_out(out_BDAC * torch.sigmoid(self.linear_gate(x_BDAC)))
        return self.transition(
            q_BDAC + conditioning.gate_B1AC * update_BDAC, conditioning.transition
        )

    def _by_window(self, x_BDWQC: Tensor) -> Tensor:
        """Reshape to the layout of the operator, [B · W, D, Q, H, C / H]."""
        return x_BDWQC.movedim(2, 1).flatten(0, 1).unflatten(-1, (self.heads, -1))


class AtomTransformer(nn.Module):
    """Algorithm 7. All blocks share one LayerNorm of the atom pairs, as in the released code."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        blocks, heads = config.atom_blocks, config.atom_heads
        self.norm_pair = ScaledLayerNorm(config.c_atompair, precision)
        self.linear_bias = Linear(config.c_atompair, blocks * heads, precision=precision)
        self.blocks = nn.ModuleList(AtomTransformerBlock(config, precision) for _ in range(blocks))

    def condition(self, condition: AtomConditioning) -> tuple[AtomBlockConditioning, ...]:
        """Compute the conditioning of every block, once for all samples and noise levels."""
        biases_BWQKE = self.linear_bias(condition.pair_BWQKP, norm=self.norm_pair)
        biases_LBWHQK = biases_BWQKE.unflatten(-1, (len(self.blocks), -1)).permute(4, 0, 1, 5, 2, 3)
        pairs = zip(self.blocks, biases_LBWHQK.unbind(0), strict=True)
        return tuple(
            cast(AtomTransformerBlock, block).condition(condition.single_B1AC, bias)
            for block, bias in pairs
        )

    def forward(
        self,
        q_BDAC: Tensor,
        conditioning: tuple[AtomBlockConditioning, ...],
        atom_mask_BE: Tensor,
        context: Context,
    ) -> Tensor:
        """Return the updated atoms of every sample."""
        mask_BWK = feature_key_windows(atom_mask_BE, 1, context.layout)
        for block, block_conditioning in zip(self.blocks, conditioning, strict=True):
            q_BDAC = context.run(block, q_BDAC, block_conditioning, mask_BWK)
        return q_BDAC


class AtomReferenceEmbedding(nn.Module):
    """Lines 1 to 6 of Algorithm 5: reference conformer features of atoms and atom pairs."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        c_atom, c_pair = config.c_atom, config.c_atompair
        self.linear = OneHotLinear(REFERENCE_WIDTH, c_atom, precision=precision)
        self.linear_offset = Linear(3, c_pair, precision=precision)
        self.linear_distance = OneHotLinear(1, c_pair, precision=precision)
        self.linear_valid = OneHotLinear(1, c_pair, precision=precision)
        self.coordinates = precision.coordinates
        self.features = precision.features
        self.dtype = precision.activations

    def single(self, batch: Batch, layout: Layout) -> Tensor:
        """Return [B, A, C]; zero for atoms missing from the reference conformer and for padding."""
        batch = owned_atoms(batch, layout)
        look, scaled, dtype = self.linear.lookup, self.linear.scaled, self.dtype
        position_BA3 = batch["reference_position"]
        c_BAC = scaled(position_BA3[..., 0], 0, dtype)
        for axis in (1, 2):
            c_BAC = c_BAC + scaled(position_BA3[..., axis], axis, dtype)
        c_BAC = c_BAC + scaled(batch["reference_mask"], 3, dtype)
        c_BAC = c_BAC + look(batch["reference_element"], 4, dtype)
        charge_BA = torch.arcsinh(batch["reference_charge"].to(self.features))
        c_BAC = c_BAC + scaled(charge_BA, 4 + ELEMENTS, dtype)
        for letter in range(NAME_LETTERS):
            first = 5 + ELEMENTS + letter * NAME_KINDS
            c_BAC = c_BAC + look(batch["reference_name"][..., letter], first, dtype)
        return c_BAC * batch["reference_mask"].unsqueeze(-1)

    def pair(self, batch: Batch, layout: Layout) -> Tensor:
        """Return [B, W, Q, K, P]; zero between atoms of different conformers."""

        def queries(x: Tensor) -> Tensor:
            return query_windows(layout.local_atoms(x, 1), 1).unsqueeze(3)

        def keys(x: Tensor) -> Tensor:
            return feature_key_windows(x, 1, layout).unsqueeze(2)

        position_BE3 = batch["reference_position"].to(self.coordinates)
        offset_BWQK3 = queries(position_BE3) - keys(position_BE3)
        space_BE, mask_BE = batch["reference_space"], batch["atom_mask"]
        valid_BWQK = queries(space_BE) == keys(space_BE)
        valid_BWQK = valid_BWQK & queries(mask_BE)
        valid_BWQK = valid_BWQK & keys(mask_BE)
        inverse_BWQK = 1.0 / (1.0 + offset_BWQK3.square().sum(-1))
        p_BWQKP = self.linear_offset(offset_BWQK3.to(self.dtype))
        p_BWQKP = p_BWQKP + self.linear_distance.scaled(inverse_BWQK, 0, self.dtype)
        p_BWQKP = p_BWQKP + self.linear_valid.scaled(valid_BWQK, 0, self.dtype)
        return p_BWQKP * valid_BWQK.unsqueeze(-1)


class AtomPairMixer(nn.Module):
    """Lines 11 to 13 of Algorithm 5: add the atom conditioning to the pairs, then an MLP."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        c_atom, c_pair = config.c_atom, config.c_atompair
        self.linear_ends = Linear(c_atom, 2 * c_pair, initializer=he, precision=precision)
        self.layers = nn.ModuleList(
            Linear(c_pair, c_pair, initializer=initializer, precision=precision)
            for initializer in (he, he, zeros)
        )

    def forward(self, c_BAC: Tensor, p_BWQKP: Tensor, layout: Layout) -> Tensor:
        """Return the updated pairs [B, W, Q, K, P]."""
        row_BAP, column_BAP = self.linear_ends(F.relu(c_BAC)).chunk(2, dim=-1)
        p_BWQKP = p_BWQKP + query_windows(row_BAP, 1).unsqueeze(3)
        columns_BWKP = key_windows(column_BAP, 1, layout.named("atom_attention"))
        p_BWQKP = p_BWQKP + columns_BWKP.unsqueeze(2)
        hidden = p_BWQKP
        for layer in self.layers:
            hidden = layer(F.relu(hidden))
        return p_BWQKP + hidden


class AtomAttentionEncoder(nn.Module):
    """Algorithm 5 without noise or trunk, as used by the input embedder."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.reference = AtomReferenceEmbedding(config, precision)
        self.pair_mixer = AtomPairMixer(config, precision)
        self.transformer = AtomTransformer(config, precision)
        self.token_sums = TokenSums(config.c_atom, config.c_s, precision)

    def forward(self, batch: Batch, context: Context) -> Tensor:
        """Return token activations [B, R, T]."""
        layout = context.layout
        c_BAC = self.reference.single(batch, layout)
        p_BWQKP = self.reference.pair(batch, layout)
        p_BWQKP = self.pair_mixer(c_BAC, p_BWQKP, layout)
        condition = AtomConditioning(c_BAC.unsqueeze(1), p_BWQKP)
        conditioning = self.transformer.condition(condition)
        q_B1AC = self.transformer(condition.single_B1AC, conditioning, batch["atom_mask"], context)
        return self.token_sums(q_B1AC, batch, layout).squeeze(1)


class DiffusionAtomEncoder(nn.Module):
    """Algorithm 5 in the diffusion module, with trunk conditioning and noised positions."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        c_atom, c_pair = config.c_atom, config.c_atompair
        self.reference = AtomReferenceEmbedding(config, precision)
        self.norm_s = ScaledLayerNorm(config.c_s, precision)
        self.linear_s = Linear(config.c_s, c_atom, initializer=zeros, precision=precision)
        self.norm_z = ScaledLayerNorm(config.c_z, precision)
        self.linear_z = Linear(config.c_z, c_pair, initializer=zeros, precision=precision)
        self.linear_position = Linear(3, c_atom, precision=precision)
        self.pair_mixer = AtomPairMixer(config, precision)
        self.transformer = AtomTransformer(config, precision)
        self.token_sums = TokenSums(c_atom, config.c_token, precision)

    def condition(
        self, s_BRS: Tensor, z_BRNC: Tensor, batch: Batch, context: Context
    ) -> AtomConditioning:
        """Return the conditioning of atoms and atom pairs, the same for all samples.

        The conditioning of single atoms is also the initial atom representation, as in the released
        code: the sum of the reference embedding and the projected trunk single.

        Args:
            s_BRS: Single representation of the trunk.
            z_BRNC: Pair conditioning.
            batch: Atom features.
            context: Layout.
        """
        layout = context.layout
        trunk_B1RC = self.linear_s(s_BRS, norm=self.norm_s).unsqueeze(1)
        c_BAC = self.reference.single(batch, layout)
        c_BAC = c_BAC + of_tokens(trunk_B1RC, batch, layout).squeeze(1)
        p_BWQKP = self.reference.pair(batch, layout)
        z_BRNP = context.by_rows(self._pairs, z_BRNC)
        p_BWQKP = p_BWQKP + self._token_pairs(z_BRNP, batch, layout)
        p_BWQKP = self.pair_mixer(c_BAC, p_BWQKP, layout)
        return AtomConditioning(c_BAC.unsqueeze(1), p_BWQKP)

    def _pairs(self, z_BRNC: Tensor) -> Tensor:
        return self.linear_z(z_BRNC, norm=self.norm_z)

    @staticmethod
    def _token_pairs(z_BRNP: Tensor, batch: Batch, layout: Layout) -> Tensor:
        """Return [B, W, Q, K, P], the token pair of each query and key; padding reads any pair."""
        token_BE = batch["atom_token"]
        z_BMUP = layout.named("tokens_and_atoms").pairs_of_atoms(z_BRNP)
        rows = query_windows(token_in_interval(batch, layout), 1).clamp(min=0).long().unsqueeze(3)
        columns = feature_key_windows(token_BE, 1, layout)
        if not layout.is_unsharded:
            columns = columns - layout.key_tokens[0]
        columns = columns.clamp(min=0).long().unsqueeze(2)
        cells = (rows * z_BMUP.shape[2] + columns).flatten(1).unsqueeze(-1)
        flat = z_BMUP.flatten(1, 2).gather(1, cells.expand(-1, -1, z_BMUP.shape[-1]))
        return flat.unflatten(1, (-1, ATOM_WINDOW, ATOM_KEYS))

    def forward(
        self,
        initial_B1AC: Tensor,
        conditioning: tuple[AtomBlockConditioning, ...],
        position_BDA3: Tensor,
        batch: Batch,
        context: Context,
    ) -> tuple[Tensor, Tensor]:
        """Return tokens [B, D, R, T] and atoms [B, D, A, C]; positions have unit variance."""
        mask_BA = context.layout.local_atoms(batch["atom_mask"], 1)
        embedded_BDAC = self.linear_position(position_BDA3.to(initial_B1AC.dtype))
        q_BDAC = initial_B1AC + embedded_BDAC * mask_BA[:, None, :, None]
        q_BDAC = self.transformer(q_BDAC, conditioning, batch["atom_mask"], context)
        return self.token_sums(q_BDAC, batch, context.layout), q_BDAC


class AtomAttentionDecoder(nn.Module):
    """Algorithm 6: broadcast tokens to atoms, atom transformer, position updates."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.linear_token = Linear(config.c_token, config.c_atom, precision=precision)
        self.transformer = AtomTransformer(config, precision)
        self.norm = ScaledLayerNorm(config.c_atom, precision)
        self.linear_out = Linear(config.c_atom, 3, initializer=zeros, precision=precision)

    def forward(
        self,
        a_BDRT: Tensor,
        q_BDAC: Tensor,
        conditioning: tuple[AtomBlockConditioning, ...],
        batch: Batch,
        context: Context,
    ) -> Tensor:
        """Return position updates [B, D, A, 3]."""
        q_BDAC = q_BDAC + of_tokens(self.linear_token(a_BDRT), batch, context.layout)
        q_BDAC = self.transformer(q_BDAC, conditioning, batch["atom_mask"], context)
        return self.linear_out(q_BDAC, norm=self.norm)
