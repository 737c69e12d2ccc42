"""Random rigid motions and noise of atoms, keyed by what they are for (Algorithm 19).

Shape suffixes: B batch, D diffusion samples, A atoms.
"""

import torch
from torch import Tensor

from refsys.geometry import quaternion_to_rotation, weighted_mean
from refsys.model.context import Context
from refsys.model.diffusion_conditioning import SIGMA_DATA
from refsys.streams import Draw

# Draws of one stream that belong to different samples lie so far apart.
_SAMPLE_STRIDE = 2**30


def unit_noise(context: Context, mask_BA: Tensor, samples: int, seed: int, stream: str) -> Tensor:
    """Unit normals [B, D, A, 3], a function of (seed, stream, step, example, sample, atom)."""
    draw = Draw(seed, stream, context.step, context.example)
    atoms = mask_BA.shape[1]
    rows = [
        draw.normal_on(mask_BA.device, 3 * atoms, sample * _SAMPLE_STRIDE)
        for sample in range(samples)
    ]
    noise_BDE = torch.stack([_batched(row, mask_BA.shape[0]) for row in rows], dim=1)
    return noise_BDE.unflatten(-1, (atoms, 3)) * mask_BA[:, None, :, None]


def augmented(x_BDA3: Tensor, mask_BA: Tensor, context: Context, seed: int, stream: str) -> Tensor:
    """Algorithm 19: centred, turned at random, shifted by a unit normal, each sample by itself."""
    batch, samples = x_BDA3.shape[:2]
    draw = Draw(seed, stream, context.step, context.example)
    # Four numbers make a rotation, three a shift.
    numbers_BE = _batched(draw.normal_on(x_BDA3.device, 8 * samples), batch).to(x_BDA3.dtype)
    numbers_BD8 = numbers_BE.unflatten(-1, (samples, 8))
    rotation_BD33 = quaternion_to_rotation(numbers_BD8[..., :4])
    shift_BD13 = numbers_BD8[..., 4:7].unsqueeze(2)
    weight_BDA = mask_BA.unsqueeze(1).expand(-1, samples, -1).to(x_BDA3.dtype)
    centred_BDA3 = x_BDA3 - weighted_mean(x_BDA3, weight_BDA)
    moved_BDA3 = centred_BDA3 @ rotation_BD33.transpose(-1, -2) + shift_BD13
    return moved_BDA3 * mask_BA[:, None, :, None]


def noise_levels(context: Context, mask_BA: Tensor, samples: int, seed: int) -> Tensor:
    """[B, D] noise levels of training, ångström: 16 · exp(−1.2 + 1.5 n), n a unit normal."""
    draw = Draw(seed, "noise level", context.step, context.example)
    normal_BD = _batched(draw.normal_on(mask_BA.device, samples), mask_BA.shape[0])
    return SIGMA_DATA * torch.exp(-1.2 + 1.5 * normal_BD)


def _batched(draws: Tensor, batch: int) -> Tensor:
    """[B, count] of draws that may lack a batch axis."""
    return draws if draws.dim() == 2 else draws.expand(batch, -1)
