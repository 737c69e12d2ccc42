"""Diffusion module and sampler (Algorithms 18 to 20).

Tensors that do not depend on the noise (the pair conditioning, the conditioning of atoms, all pair
biases) form a `DiffusionConditioning`, computed once and used by all samples and sampling steps.

Shape suffixes: B batch, D diffusion samples, A atoms, O owned atoms, R owned tokens, N all tokens,
S single width (in front: sampling steps), C pair channels, I width of the input single
representation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.model.atom_attention import (
    AtomAttentionDecoder,
    AtomBlockConditioning,
    DiffusionAtomEncoder,
)
from refsys.model.context import Context
from refsys.model.diffusion_conditioning import SIGMA_DATA, PairConditioning, SingleConditioning
from refsys.model.diffusion_transformer import DiffusionTransformer
from refsys.model.layers import Linear, ScaledLayerNorm
from refsys.ops.rounds import equal_rounds
from refsys.precision import Precision


class DiffusionConditioning(NamedTuple):
    """Conditioning that all samples and sampling steps share, of the owned tokens and atoms.

    Attributes:
        single_B1RS: Noise-independent part of the single conditioning.
        fourier_2F: Frequencies and phases of the noise level's embedding.
        biases_LBHRN: Pair biases of every block of the token transformer.
        initial_B1OC: Atom representation before the noised positions are added.
        encoder: Conditioning of the blocks of the atom encoder.
        decoder: Conditioning of the blocks of the atom decoder.
    """

    single_B1RS: Tensor
    fourier_2F: Tensor
    biases_LBHRN: Tensor
    initial_B1OC: Tensor
    encoder: tuple[AtomBlockConditioning, ...]
    decoder: tuple[AtomBlockConditioning, ...]


class DiffusionModule(nn.Module):
    """Algorithm 20: denoiser from noised to denoised positions."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.pair_conditioning = PairConditioning(config, precision)
        self.single_conditioning = SingleConditioning(config, precision)
        self.atom_encoder = DiffusionAtomEncoder(config, precision)
        self.norm_s = ScaledLayerNorm(config.c_s, precision)
        self.linear_s = Linear(config.c_s, config.c_token, precision=precision)
        self.transformer = DiffusionTransformer(config, precision)
        self.norm_a = ScaledLayerNorm(config.c_token, precision)
        self.atom_decoder = AtomAttentionDecoder(config, precision)
        self.precision = precision

    def components(self) -> dict[str, list[nn.Module]]:
        """Return the components by which parameters are counted."""
        return {
            "diffusion_conditioning": [self.pair_conditioning, self.single_conditioning],
            "diffusion_atom_encoder": [self.atom_encoder],
            "token_transformer": [self.transformer],
            "diffusion_norms": [self.norm_s, self.linear_s, self.norm_a],
            "diffusion_atom_decoder": [self.atom_decoder],
        }

    def condition(
        self, s_inputs_BRI: Tensor, s_BRS: Tensor, z_BRNC: Tensor, batch: Batch, context: Context
    ) -> DiffusionConditioning:
        """Compute the conditioning, which does not depend on the noise."""
        z_BRNC = context.run(self._pairs, z_BRNC, batch)
        atoms = self.atom_encoder.condition(s_BRS, z_BRNC, batch, context)
        return DiffusionConditioning(
            self.single_conditioning.trunk(s_BRS, s_inputs_BRI),
            self.single_conditioning.fourier.constants(s_BRS.device),
            self.transformer.biases(z_BRNC, context),
            atoms.single_B1AC,
            self.atom_encoder.transformer.condition(atoms),
            self.atom_decoder.transformer.condition(atoms),
        )

    def _pairs(self, z_BRNC: Tensor, batch: Batch, context: Context) -> Tensor:
        return self.pair_conditioning(z_BRNC, batch, context)

    def forward(
        self,
        noised_BDA3: Tensor,
        sigma_BD: Tensor,
        condition: DiffusionConditioning,
        batch: Batch,
        context: Context,
    ) -> Tensor:
        """Return denoised positions [B, D, A, 3], in the dtype of coordinates.

        Args:
            noised_BDA3: Positions with noise, ångström.
            sigma_BD: Standard deviation of the noise, ångström.
            condition: From `condition`; broadcasts over samples.
            batch: Atom features and masks.
            context: Layout and checkpointing.
        """
        variance_BD = sigma_BD.square() + SIGMA_DATA**2
        layout = context.layout
        noised_BDO3 = layout.local_atoms(noised_BDA3, 2)
        scaled_BDO3 = noised_BDO3 / variance_BD.sqrt()[..., None, None]
        s_BDRS = self.single_conditioning(condition.single_B1RS, condition.fourier_2F, sigma_BD)
        a_BDRT, q_BDOC = self.atom_encoder(
            condition.initial_B1OC, condition.encoder, scaled_BDO3, batch, context
        )
        a_BDRT = a_BDRT + self.linear_s(s_BDRS, norm=self.norm_s)
        a_BDRT = self.transformer(
            a_BDRT, s_BDRS, condition.biases_LBHRN, batch["token_mask"], context
        )
        update_BDO3 = self.atom_decoder(
            self.norm_a(a_BDRT), q_BDOC, condition.decoder, batch, context
        ).to(self.precision.coordinates)
        skip_BDO3 = (SIGMA_DATA**2 / variance_BD)[..., None, None] * noised_BDO3
        output_BDO3 = (sigma_BD * SIGMA_DATA / variance_BD.sqrt())[..., None, None] * update_BDO3
        mask_BO = layout.local_atoms(batch["atom_mask"], 1)
        denoised_BDO3 = (skip_BDO3 + output_BDO3) * mask_BO[:, None, :, None]
        return layout.named("positions").gather_atoms(denoised_BDO3, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig:
    """Parameters of Algorithm 18; the defaults are the published ones.

    Attributes:
        steps: Number of sampling steps; there are `steps` + 1 noise levels.
        sigma_max: First noise level, in units of SIGMA_DATA.
        sigma_min: Last noise level, in units of SIGMA_DATA.
        rho: Exponent of the schedule.
        gamma: Relative increase of the noise level before each step.
        gamma_min: Noise level, ångström, up to which no noise is added.
        noise_scale: Factor of the added noise.
        step_scale: Factor of each step.
    """

    steps: int = 200
    sigma_max: float = 160.0
    sigma_min: float = 4e-4
    rho: float = 7.0
    gamma: float = 0.8
    gamma_min: float = 1.0
    noise_scale: float = 1.003
    step_scale: float = 1.5

    def levels(self) -> list[float]:
        """Return the `steps` + 1 noise levels, ångström, largest first."""
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return [
            SIGMA_DATA * (first + step / self.steps * (last - first)) ** self.rho
            for step in range(self.steps + 1)
        ]


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    mask_BA: Tensor,
    noise_SBDA3: Tensor,
    augment: Callable[[Tensor, int], Tensor],
    config: SamplerConfig,
) -> Tensor:
    """Sample positions [B, D, A, 3] from the model (Algorithm 18).

    Args:
        denoise: Maps noised positions and noise levels [B, D] to denoised positions.
        mask_BA: False for padded atoms.
        noise_SBDA3: Unit normals, for the start and for each step.
        augment: Centres, rotates and translates positions for a step (Algorithm 19).
        config: Schedule.
    """
    levels = config.levels()
    x_BDA3 = levels[0] * noise_SBDA3[0]
    for step in equal_rounds(range(1, len(levels))):
        previous, level = levels[step - 1], levels[step]
        x_BDA3 = augment(x_BDA3, step)
        gamma = config.gamma if level > config.gamma_min else 0.0
        higher = previous * (gamma + 1.0)
        added = config.noise_scale * (higher**2 - previous**2) ** 0.5
        noised_BDA3 = x_BDA3 + added * noise_SBDA3[step]
        sigma_BD = torch.full(
            noised_BDA3.shape[:2], higher, dtype=noised_BDA3.dtype, device=noised_BDA3.device
        )
        delta_BDA3 = (noised_BDA3 - denoise(noised_BDA3, sigma_BD)) / higher
        x_BDA3 = noised_BDA3 + config.step_scale * (level - higher) * delta_BDA3
    return x_BDA3 * mask_BA[:, None, :, None]
