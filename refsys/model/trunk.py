"""AlphaFold 3 trunk as a model of its own, with heads to train it.

Shape suffixes: B batch, R owned tokens, N all tokens, C pair channels, W single width, K bins.
"""

from typing import NamedTuple

from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.model.context import Context
from refsys.model.embedding import TokenInputEmbedder
from refsys.model.heads import DistogramHead, ResolvedHead
from refsys.model.recycling import RecyclingTrunk
from refsys.precision import Precision


class TrunkOutput(NamedTuple):
    """Output of the trunk: slabs of this rank."""

    s_BRW: Tensor
    z_BRNC: Tensor
    distogram_BRNK: Tensor
    resolved_BR2: Tensor


class Trunk(RecyclingTrunk):
    """Token embedding, recycling, MSA module, Pairformer and heads."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__(config, precision)
        self.token_input_embedder = TokenInputEmbedder(config, precision)
        self.distogram = DistogramHead(config, precision)
        self.resolved = ResolvedHead(config, precision)
        self.number_dropout()

    def components(self) -> dict[str, nn.ModuleList]:
        """Return the components by which parameters are counted."""
        parts: dict[str, list[nn.Module]] = {
            "token_embedder": [self.token_input_embedder],
            "trunk_glue": self.glue(),
            "msa": [self.msa],
            "pairformer": [self.pairformer],
            "distogram": [self.distogram],
            "resolved": [self.resolved],
        }
        return {name: nn.ModuleList(modules) for name, modules in parts.items()}

    def forward(self, batch: Batch, context: Context, cycles: int = 1) -> TrunkOutput:
        """Run `cycles` recycling iterations; only the last has a gradient.

        Args:
            batch: Batch, replicated on every rank.
            context: Layout, randomness, checkpointing.
            cycles: N_cycle, at least 1.
        """
        s_inputs_BRI = self.token_input_embedder(batch, context.layout)
        s_BRW, z_BRNC = self.recycle(s_inputs_BRI, batch, context, cycles)
        return TrunkOutput(s_BRW, z_BRNC, self.distogram(z_BRNC, context), self.resolved(s_BRW))
