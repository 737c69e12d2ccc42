"""Diffusion transformer over tokens (Algorithms 23 and 24).

Shape suffixes: B batch, D diffusion samples, R owned tokens, N all tokens, T token width, S single
width, C pair channels, H heads, L blocks.
"""

import torch
from torch import Tensor, nn

from refsys.config import ModelConfig
from refsys.model.conditioning import AdaptiveLayerNorm, ConditionedTransition, ZeroGate
from refsys.model.context import Context
from refsys.model.initialization import lecun, stacked, zeros
from refsys.model.layers import Linear, ScaledLayerNorm
from refsys.ops.rounds import equal_blocks
from refsys.ops.triangle_attention import triangle_attention
from refsys.parallel.blocks import Block
from refsys.precision import Precision


class DiffusionAttentionPairBias(nn.Module):
    """Algorithm 24 with conditioning; tokens attend to all tokens of the same sample."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        width = config.c_token
        self.heads = config.token_heads
        self.norm = AdaptiveLayerNorm(config.c_s, width, precision)
        self.linear_q = Linear(width, width, bias=True, precision=precision)
        self.linear_kvg = Linear(
            width,
            3 * width,
            initializer=stacked((2 * width, lecun), (width, zeros)),
            precision=precision,
        )
        self.linear_out = Linear(width, width, precision=precision)
        self.gate = ZeroGate(config.c_s, width, precision)
        self.softmax = precision.softmax

    def forward(
        self,
        a_BDRT: Tensor,
        condition_BDRS: Tensor,
        bias_BHRN: Tensor,
        token_mask_BN: Tensor,
        context: Context,
    ) -> Tensor:
        """Return the owned tokens of every sample with the update added."""
        x_BDRT = self.norm(a_BDRT, self.norm.condition(condition_BDRS))
        k_BDRT, v_BDRT, gate_BDRT = self.linear_kvg(x_BDRT).chunk(3, dim=-1)
        layout = context.layout.named("diffusion_transformer")
        q, k, v = (
            t.unflatten(-1, (self.heads, -1))
            for t in (
                self.linear_q(x_BDRT),
                *layout.gather_together((k_BDRT, v_BDRT), axis=2),
            )
        )
        mask_BDN = token_mask_BN.unsqueeze(1).expand(-1, q.shape[1], -1)
        out = triangle_attention(q, k, v, bias_BHRN, mask_BDN, softmax=self.softmax)
        update_BDRT = self.linear_out(out.flatten(-2) * torch.sigmoid(gate_BDRT))
        return a_BDRT + self.gate(condition_BDRS) * update_BDRT


class DiffusionTransformerBlock(Block):
    """One block of Algorithm 23: attention, then transition."""

    repeated = True

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.attention = DiffusionAttentionPairBias(config, precision)
        self.transition = ConditionedTransition(config.c_s, config.c_token, precision)

    def forward(
        self,
        a_BDRT: Tensor,
        condition_BDRS: Tensor,
        bias_BHRN: Tensor,
        token_mask_BN: Tensor,
        context: Context,
    ) -> Tensor:
        """Return the updated tokens."""
        a_BDRT = self.attention(a_BDRT, condition_BDRS, bias_BHRN, token_mask_BN, context)
        return self.transition(a_BDRT, self.transition.condition(condition_BDRS))


class DiffusionTransformer(nn.Module):
    """Algorithm 23. All blocks share one LayerNorm of the pairs, as in the released code."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        blocks, heads = config.token_blocks, config.token_heads
        self.norm_z = ScaledLayerNorm(config.c_z, precision)
        self.linear_bias = Linear(config.c_z, blocks * heads, precision=precision)
        self.blocks = nn.ModuleList(
            DiffusionTransformerBlock(config, precision) for _ in range(blocks)
        )

    def biases(self, z_BRNC: Tensor, context: Context) -> Tensor:
        """Return the bias of every block [L, B, H, R, N], shared by all samples."""
        bias_BRNE = context.by_rows(self._bias, z_BRNC)
        return bias_BRNE.unflatten(-1, (len(self.blocks), -1)).permute(3, 0, 4, 1, 2)

    def _bias(self, z_BRNC: Tensor) -> Tensor:
        return self.linear_bias(z_BRNC, norm=self.norm_z)

    def forward(
        self,
        a_BDRT: Tensor,
        condition_BDRS: Tensor,
        biases_LBHRN: Tensor,
        token_mask_BN: Tensor,
        context: Context,
    ) -> Tensor:
        """Return the updated tokens of every sample.

        Args:
            a_BDRT: Token activations.
            condition_BDRS: Single conditioning, which depends on the noise level.
            biases_LBHRN: From `biases`.
            token_mask_BN: False where padded.
            context: Layout and checkpointing.
        """
        pairs = list(zip(self.blocks, biases_LBHRN.unbind(0), strict=True))
        for block, bias_BHRN in equal_blocks(pairs):
            a_BDRT = context.run(block, a_BDRT, condition_BDRS, bias_BHRN, token_mask_BN, shared=3)
        return a_BDRT
