"""AlphaFold 3 (Algorithm 1): input embedder, trunk, diffusion module and heads.

A training step calls `trunk`, `rollout`, `predict_confidence` and `denoise` separately, because the
labels are permuted between these calls.

Shape suffixes: B batch, D diffusion samples, A atoms, R owned tokens, N all tokens, C pair
channels, W single width, I width of the input single representation, K bins.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.model.atom_attention import AtomAttentionEncoder
from refsys.model.augmentation import apply_motions, random_motions, unit_noises
from refsys.model.confidence import ConfidenceHead, ConfidenceOutput
from refsys.model.context import Context
from refsys.model.diffusion import DiffusionConditioning, DiffusionModule, SamplerConfig, sample
from refsys.model.embedding import RESIDUE_CLASSES
from refsys.model.heads import DistogramHead
from refsys.model.recycling import RecyclingTrunk, pair_mask
from refsys.model.template import TemplateEmbedder, template_features
from refsys.precision import Precision

# Short schedule of the rollout in training, whose structures train the confidence head.
ROLLOUT = SamplerConfig(steps=20)


class InputFeatureEmbedder(nn.Module):
    """Algorithm 2: atom features pooled to tokens, residue type, profile and deletion mean."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.atom_encoder = AtomAttentionEncoder(config, precision)
        self.dtype = precision.activations

    def forward(self, batch: Batch, context: Context) -> Tensor:
        """Return the input single representation [B, R, I]."""
        layout = context.layout
        tokens_BRW = self.atom_encoder(batch, context)
        classes = torch.arange(RESIDUE_CLASSES, device=tokens_BRW.device)
        parts = (
            tokens_BRW,
            layout.local(batch["residue_type"], 1).unsqueeze(-1) == classes,
            layout.local(batch["profile"], 1),
            layout.local(batch["deletion_mean"], 1).unsqueeze(-1),
        )
        return torch.cat([part.to(self.dtype) for part in parts], dim=-1)


class TrunkState(NamedTuple):
    """Output of the trunk, the input of the diffusion module and the heads: slabs of this rank."""

    s_inputs_BRI: Tensor
    s_BRW: Tensor
    z_BRNC: Tensor


class AlphaFold3(RecyclingTrunk):
    """Full model.

    Positions of atoms are those of all atoms, on every rank, both as input and as output.
    """

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__(config, precision)
        self.input_embedder = InputFeatureEmbedder(config, precision)
        self.template_embedder = TemplateEmbedder(config, precision)
        self.diffusion = DiffusionModule(config, precision)
        self.confidence = ConfidenceHead(config, precision)
        self.distogram = DistogramHead(config, precision)
        self.number_dropout()

    def components(self) -> dict[str, nn.ModuleList]:
        """Return the components by which parameters are counted."""
        parts: dict[str, list[nn.Module]] = {
            "input_atom_encoder": [self.input_embedder],
            "trunk_glue": self.glue(),
            "template": [self.template_embedder],
            "msa": [self.msa],
            "pairformer": [self.pairformer],
            **self.diffusion.components(),
            "confidence": [self.confidence],
            "distogram": [self.distogram],
        }
        return {name: nn.ModuleList(modules) for name, modules in parts.items()}

    def templates(self, z_BRNC: Tensor, batch: Batch, mask_BRN: Tensor, context: Context) -> Tensor:
        """Return the pair slab with the template embedding added."""
        features = template_features(batch, self.precision)
        if context.writes_over_pairs():
            return self.template_embedder(z_BRNC, features, mask_BRN, context, in_place=True)
        return z_BRNC + self.template_embedder(z_BRNC, features, mask_BRN, context)

    def trunk(self, batch: Batch, context: Context, cycles: int) -> TrunkState:
        """Embed the inputs and run `cycles` recycling iterations; only the last has a gradient."""
        s_inputs_BRI = self.input_embedder(batch, context)
        s_BRW, z_BRNC = self.recycle(s_inputs_BRI, batch, context, cycles)
        return TrunkState(s_inputs_BRI, s_BRW, z_BRNC)

    def condition(self, state: TrunkState, batch: Batch, context: Context) -> DiffusionConditioning:
        """Return the conditioning that all samples and sampling steps share."""
        return self.diffusion.condition(*state, batch, context)

    def distogram_logits(self, state: TrunkState, context: Context) -> Tensor:
        """Return logits [B, R, N, K] over distance bins."""
        return self.distogram(state.z_BRNC, context)

    def denoise(
        self,
        noised_BDA3: Tensor,
        sigma_BD: Tensor,
        condition: DiffusionConditioning,
        batch: Batch,
        context: Context,
    ) -> Tensor:
        """Return denoised positions [B, D, A, 3] (Algorithm 20)."""
        return self.diffusion(noised_BDA3, sigma_BD, condition, batch, context)

    @torch.no_grad()
    def rollout(
        self,
        condition: DiffusionConditioning,
        batch: Batch,
        context: Context,
        *,
        seed: int,
        samples: int = 1,
        sampler: SamplerConfig = ROLLOUT,
    ) -> Tensor:
        """Sample positions [B, D, A, 3] from the model, without gradient (Algorithm 18).

        Args:
            condition: From `condition`.
            batch: Atom features.
            context: Layout, RNG keys, and samples that are denoised at once.
            seed: Seed of the noise.
            samples: D, the number of diffusion samples.
            sampler: Schedule of noise levels.
        """
        inference = replace(context, checkpointing=False, masks=None)
        mask_BA, rounds = batch["atom_mask"], sampler.steps + 1
        noise_SBDA3 = unit_noises(inference, mask_BA, samples, seed, "rollout/noise", rounds)
        noise_SBDA3 = noise_SBDA3.to(self.precision.coordinates)
        motions = random_motions(inference, noise_SBDA3[0], seed, "rollout/augmentation", rounds)

        def augment(x_BDA3: Tensor, step: int) -> Tensor:
            return apply_motions(x_BDA3, mask_BA, motions[step])

        def denoise(noised_BDA3: Tensor, sigma_BD: Tensor) -> Tensor:
            return inference.by_samples(
                self.denoise, noised_BDA3, sigma_BD, condition, batch, inference, axes=(1, 1)
            )

        return sample(denoise, mask_BA, noise_SBDA3, augment, sampler)

    def predict_confidence(
        self, state: TrunkState, positions_BA3: Tensor, batch: Batch, context: Context
    ) -> ConfidenceOutput:
        """Return the confidence logits of a structure (Algorithm 31)."""
        atom_BN = batch["representative_atom"].clamp(min=0).long()
        representative_BN3 = positions_BA3.gather(1, atom_BN.unsqueeze(-1).expand(-1, -1, 3))
        return self.confidence(
            *state, representative_BN3, batch["token_mask"], pair_mask(batch, context), context
        )
