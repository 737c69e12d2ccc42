"""Attention with pair bias (Algorithm 24), without conditioning.

Shape suffixes: B batch, R owned tokens, N all tokens, C channels, S single width, H heads.
"""

from torch import Tensor, nn

from refsys.model.context import Context
from refsys.model.initialization import lecun, stacked, zeros
from refsys.model.layers import LayerNorm, Linear
from refsys.ops.triangle_attention import triangle_attention
from refsys.precision import Precision


class AttentionPairBias(nn.Module):
    """Tokens attend to all tokens, biased by their row of the pair representation."""

    def __init__(self, c_s: int, c_z: int, heads: int, precision: Precision) -> None:
        super().__init__()
        self.heads = heads
        self.norm_s = LayerNorm(c_s, precision)
        self.norm_z = LayerNorm(c_z, precision)
        self.linear_bias = Linear(c_z, heads, precision=precision)
        self.linear_q = Linear(c_s, c_s, bias=True, precision=precision)
        self.linear_kvg = Linear(
            c_s, 3 * c_s, initializer=stacked((2 * c_s, lecun), (c_s, zeros)), precision=precision
        )
        self.linear_out = Linear(c_s, c_s, initializer=zeros, precision=precision)
        self.softmax = precision.softmax

    def forward(
        self, s_BRS: Tensor, z_BRNC: Tensor, token_mask_BN: Tensor, context: Context
    ) -> Tensor:
        """The owned tokens' single representation with the update added."""
        x_BRS = self.norm_s(s_BRS)
        k_BRS, v_BRS, gate_BRS = self.linear_kvg(x_BRS).chunk(3, dim=-1)
        out_BRS = context.by_rows(
            self._attend,
            self.linear_q(x_BRS),
            z_BRNC,
            context.layout.gather_tokens(k_BRS, axis=1),
            context.layout.gather_tokens(v_BRS, axis=1),
            token_mask_BN,
            axes=(1, 1),
        )
        return s_BRS + self.linear_out(out_BRS * gate_BRS.sigmoid())

    def _attend(
        self, q_BRS: Tensor, z_BRNC: Tensor, k_BNS: Tensor, v_BNS: Tensor, token_mask_BN: Tensor
    ) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).unsqueeze(1) for t in (q_BRS, k_BNS, v_BNS))
        bias_BHRN = self.linear_bias(self.norm_z(z_BRNC)).permute(0, 3, 1, 2)
        out = triangle_attention(
            q, k, v, bias_BHRN, token_mask_BN.unsqueeze(1), softmax=self.softmax
        )
        return out.squeeze(1).flatten(-2)
