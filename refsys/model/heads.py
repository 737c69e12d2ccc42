"""Heads on the trunk's representations: distogram and resolved atoms.

Shape suffixes: B batch, R owned tokens, N all tokens, C pair channels, W single width, K bins.
"""

from torch import Tensor, nn

from refsys.config import ModelConfig
from refsys.model.context import Context
from refsys.model.initialization import zeros
from refsys.model.layers import Linear
from refsys.precision import Precision


class DistogramHead(nn.Module):
    """Logits over distance bins, symmetric in the two tokens."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.linear = Linear(
            config.c_z, config.distogram_bins, initializer=zeros, precision=precision
        )

    def forward(self, z_BRNC: Tensor, context: Context) -> Tensor:
        """Return logits [B, R, N, K] from pairs [B, R, N, C]."""
        half = self.linear(z_BRNC)
        return half + context.layout.named("heads").rows_to_columns(half)


class ResolvedHead(nn.Module):
    """Logits for a token's representative atom being resolved in the experiment.

    The pair representation does not depend on the single one, so without a head on the latter its
    half of the trunk would have no gradient (AlphaFold 2 supplement, section 1.9.10).
    """

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.linear = Linear(config.c_s, 2, initializer=zeros, precision=precision)

    def forward(self, s_BRW: Tensor) -> Tensor:
        """Return logits [B, R, 2] from singles [B, R, W]."""
        return self.linear(s_BRW)
