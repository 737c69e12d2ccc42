"""Diffusion conditioning from the trunk and the noise level (Algorithms 21 and 22).

The pair conditioning does not depend on the noise, and is computed once for all samples.

Shape suffixes: B batch, D diffusion samples, R owned tokens, N all tokens, C pair channels, S
single width, I width of the input single representation, W both widths, F Fourier features.
"""

import math

import torch
from torch import Tensor, nn

from refsys.batch import Batch
from refsys.config import ModelConfig
from refsys.model.context import Context
from refsys.model.embedding import RelativePosition, relative_position
from refsys.model.layers import Linear, ScaledLayerNorm
from refsys.model.transition import Transition
from refsys.precision import Precision
from refsys.streams import Draw

# Standard deviation of atom positions, ångström, the scale of noise levels.
SIGMA_DATA = 16.0
_TRANSITIONS = 2
_FACTOR = 2


class PairConditioning(nn.Module):
    """Lines 1 to 5 of Algorithm 21: pair representation and relative positions."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        self.config = config
        width = config.c_z + config.relative_position_width
        self.norm = ScaledLayerNorm(width, precision)
        self.linear = Linear(width, config.c_z, precision=precision)
        self.transitions = nn.ModuleList(
            Transition(config.c_z, _FACTOR, precision) for _ in range(_TRANSITIONS)
        )

    def forward(self, z_BRNC: Tensor, batch: Batch, context: Context) -> Tensor:
        """Return the pair conditioning [B, R, N, C]."""
        codes = relative_position(self.config, batch, context.layout)
        return context.by_rows(self._condition, z_BRNC, *codes, axes=(1, 1, 1, 1, 1))

    def _condition(self, z_BRNC: Tensor, *codes: Tensor) -> Tensor:
        one_hot = self._one_hot(z_BRNC.dtype, RelativePosition(*codes))
        z_BRNC = self.linear(torch.cat([z_BRNC, *one_hot], -1), norm=self.norm)
        for transition in self.transitions:
            z_BRNC = transition(z_BRNC)
        return z_BRNC

    def _one_hot(self, dtype: torch.dtype, codes: RelativePosition) -> list[Tensor]:
        bins = 2 * self.config.max_relative_residue + 2
        chain_bins = 2 * self.config.max_relative_chain + 2

        def expand(codes_BRN: Tensor, width: int) -> Tensor:
            classes = torch.arange(width, device=codes_BRN.device)
            return (codes_BRN.unsqueeze(-1) == classes).to(dtype)

        return [
            expand(codes.residue_BRN, bins),
            expand(codes.token_BRN, bins),
            codes.same_entity_BRN.unsqueeze(-1).to(dtype),
            expand(codes.chain_BRN, chain_bins),
        ]


class FourierEmbedding(nn.Module):
    """Algorithm 22: cos(2π (t w + b)) with random but fixed frequencies and phases."""

    def __init__(self, features: int, precision: Precision) -> None:
        super().__init__()
        self.features = features
        self.dtype = precision.noise_levels

    def constants(self, device: torch.device) -> Tensor:
        """Return frequencies and phases [2, F], which are the same in every run (seed 0)."""
        draws = (Draw(0, f"fourier/{kind}") for kind in ("frequency", "phase"))
        return torch.stack([draw.normal_on(device, self.features) for draw in draws]).to(self.dtype)

    def forward(self, t_BD: Tensor, constants_2F: Tensor) -> Tensor:
        """Return the embedding [B, D, F]."""
        frequency_F, phase_F = constants_2F
        cycles_BDF = t_BD.to(self.dtype).unsqueeze(-1) * frequency_F + phase_F
        return torch.cos(2.0 * math.pi * cycles_BDF)


class SingleConditioning(nn.Module):
    """Lines 6 to 12 of Algorithm 21: single representation and noise level."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        width = config.c_s + config.c_s_inputs
        self.norm_s = ScaledLayerNorm(width, precision)
        self.linear_s = Linear(width, config.c_s, precision=precision)
        self.fourier = FourierEmbedding(config.fourier_features, precision)
        self.norm_noise = ScaledLayerNorm(config.fourier_features, precision)
        self.linear_noise = Linear(config.fourier_features, config.c_s, precision=precision)
        self.transitions = nn.ModuleList(
            Transition(config.c_s, _FACTOR, precision) for _ in range(_TRANSITIONS)
        )
        self.dtype = precision.activations

    def trunk(self, s_BRS: Tensor, s_inputs_BRI: Tensor) -> Tensor:
        """Return the noise-independent part [B, 1, R, S]."""
        both_BRW = torch.cat([s_BRS, s_inputs_BRI], dim=-1)
        return self.linear_s(both_BRW, norm=self.norm_s).unsqueeze(1)

    def forward(self, trunk_B1RS: Tensor, fourier_2F: Tensor, sigma_BD: Tensor) -> Tensor:
        """Return the single conditioning [B, D, R, S] for noise levels in ångström."""
        level_BDF = self.fourier(0.25 * torch.log(sigma_BD / SIGMA_DATA), fourier_2F)
        noise_BDS = self.linear_noise(level_BDF.to(self.dtype), norm=self.norm_noise)
        s_BDRS = trunk_B1RS + noise_BDS.unsqueeze(2)
        for transition in self.transitions:
            s_BDRS = transition(s_BDRS)
        return s_BDRS
