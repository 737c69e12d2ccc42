"""AlphaFold 3 (Algorithm 1): input embedder, trunk, diffusion module and heads.

The training step is in pieces, since labels are permuted between them: `trunk`, `rollout`,
`denoise`, `judge`.

Shape suffixes: B batch, D diffusion samples, A atoms, N tokens, C pair channels, W single width, I
width of the input single representation, K bins.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.model.atom_attention import AtomAttentionEncoder
from refsys.model.augmentation import moved, random_motions, unit_noises
from refsys.model.confidence import ConfidenceHead, ConfidenceOutput
from refsys.model.context import Context
from refsys.model.diffusion import DiffusionConditioning, DiffusionModule, SamplerConfig, sample
from refsys.model.embedding import RESIDUE_CLASSES
from refsys.model.heads import DistogramHead
from refsys.model.recycling import RecyclingTrunk, pair_mask
from refsys.model.template import TemplateEmbedder, template_features
from refsys.precision import Precision

# The rollout of a training step: a structure good enough to be judged.
ROLLOUT = SamplerConfig(steps=20)


class InputFeatureEmbedder(nn.Module):
    """Algorithm 2: what atoms say of their token, residue type, profile and deletion mean."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.atom_encoder = AtomAttentionEncoder(config, precision)
        self.dtype = precision.activations

    def forward(self, batch: Batch, context: Context) -> Tensor:
        """[B, N, I]."""
        tokens_BNW = self.atom_encoder(batch, context)
        classes = torch.arange(RESIDUE_CLASSES, device=tokens_BNW.device)
        parts = (
            tokens_BNW,
            batch["residue_type"].unsqueeze(-1) == classes,
            batch["profile"],
            batch["deletion_mean"].unsqueeze(-1),
        )
        return torch.cat([part.to(self.dtype) for part in parts], dim=-1)


class TrunkState(NamedTuple):
    """What the trunk leaves to the diffusion module and the heads."""

    s_inputs_BNI: Tensor
    s_BNW: Tensor
    z_BNNC: Tensor


class AlphaFold3(RecyclingTrunk):
    """The whole model, on one rank."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__(config, precision)
        self.input_embedder = InputFeatureEmbedder(config, precision)
        self.template_embedder = TemplateEmbedder(config, precision)
        self.diffusion = DiffusionModule(config, precision)
        self.confidence = ConfidenceHead(config, precision)
        self.distogram = DistogramHead(config, precision)
        self.number_dropout()

    def components(self) -> dict[str, nn.ModuleList]:
        """The parts whose parameters are counted apart."""
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
        """The pair slab with what templates say added."""
        features = template_features(batch, self.precision)
        return z_BRNC + self.template_embedder(z_BRNC, features, mask_BRN, context)

    def trunk(self, batch: Batch, context: Context, cycles: int) -> TrunkState:
        """Embeds the inputs and recycles; only the last cycle is differentiated."""
        s_inputs_BNI = self.input_embedder(batch, context)
        s_BNW, z_BNNC = self.recycle(s_inputs_BNI, batch, context, cycles)
        return TrunkState(s_inputs_BNI, s_BNW, z_BNNC)

    def condition(self, state: TrunkState, batch: Batch, context: Context) -> DiffusionConditioning:
        """What all samples and all sampling steps share."""
        return self.diffusion.condition(*state, batch, context)

    def distogram_logits(self, state: TrunkState, context: Context) -> Tensor:
        """[B, N, N, K]."""
        return self.distogram(state.z_BNNC, context)

    def denoise(
        self,
        noised_BDA3: Tensor,
        sigma_BD: Tensor,
        condition: DiffusionConditioning,
        batch: Batch,
        context: Context,
    ) -> Tensor:
        """Algorithm 20: denoised positions [B, D, A, 3]."""
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
        """Algorithm 18: positions [B, D, A, 3] drawn from the model, without gradient.

        Args:
            condition: From `condition`.
            batch: Atom features.
            context: Layout and the keys of every draw.
            seed: Seed of the noise.
            samples: D.
            sampler: The schedule.
        """
        quiet = replace(context, checkpointing=False, masks=None)
        mask_BA, rounds = batch["atom_mask"], sampler.steps + 1
        noise_SBDA3 = unit_noises(quiet, mask_BA, samples, seed, "rollout/noise", rounds)
        noise_SBDA3 = noise_SBDA3.to(self.precision.coordinates)
        motions = random_motions(quiet, noise_SBDA3[0], seed, "rollout/augmentation", rounds)

        def augment(x_BDA3: Tensor, step: int) -> Tensor:
            return moved(x_BDA3, mask_BA, motions[step])

        def denoise(noised_BDA3: Tensor, sigma_BD: Tensor) -> Tensor:
            return self.denoise(noised_BDA3, sigma_BD, condition, batch, quiet)

        return sample(denoise, mask_BA, noise_SBDA3, augment, sampler)

    def judge(
        self, state: TrunkState, positions_BA3: Tensor, batch: Batch, context: Context
    ) -> ConfidenceOutput:
        """Algorithm 31: what the trunk makes of a structure."""
        atom_BN = batch["representative_atom"].clamp(min=0).long()
        representative_BN3 = positions_BA3.gather(1, atom_BN.unsqueeze(-1).expand(-1, -1, 3))
        return self.confidence(
            *state, representative_BN3, batch["token_mask"], pair_mask(batch, context), context
        )
