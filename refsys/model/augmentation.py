"""Random rigid motions and noise of atoms from keyed streams (Algorithm 19).

Shape suffixes: B batch, D diffusion samples, A atoms, S steps of sampling.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from refsys.geometry import quaternion_to_rotation, weighted_mean
from refsys.model.context import Context
from refsys.model.diffusion_conditioning import SIGMA_DATA
from refsys.streams import Draw

# Distance between the first indices of consecutive samples, and of consecutive sampling steps.
_SAMPLE_STRIDE = 2**30
_STEP_STRIDE = 2**44
# Limit on numbers sampled at once (at least one step is): intermediates take 8 bytes a number.
_NUMBERS_AT_ONCE = 2**22


def unit_noise(context: Context, mask_BA: Tensor, samples: int, seed: int, stream: str) -> Tensor:
    """Return unit normals [B, D, A, 3], keyed by (seed, stream, step, example, sample, atom)."""
    return unit_noises(context, mask_BA, samples, seed, stream, 1)[0]


def unit_noises(
    context: Context, mask_BA: Tensor, samples: int, seed: int, stream: str, steps: int
) -> Tensor:
    """Return unit normals [S, B, D, A, 3] of a rollout; item 0 equals `unit_noise`."""
    draw = Draw(seed, stream, context.step, context.example)
    batch, atoms = mask_BA.shape
    starts_S = _starts(steps, _STEP_STRIDE, mask_BA.device)
    starts_SD = starts_S.unsqueeze(1) + _starts(samples, _SAMPLE_STRIDE, mask_BA.device)
    at_once = max(_NUMBERS_AT_ONCE // (batch * samples * 3 * atoms), 1)
    tables = [draw.normal_table_on(part_SD, 3 * atoms) for part_SD in starts_SD.split(at_once)]
    noise_SBDE = _batched(torch.cat(tables), batch, 2).transpose(1, 2)
    return noise_SBDE.unflatten(-1, (atoms, 3)) * mask_BA[:, None, :, None]


class Motions(NamedTuple):
    """Random rigid motions: a uniform rotation, then a unit normal translation, ångström."""

    rotation_BD33: Tensor
    shift_BD13: Tensor


def random_motions(
    context: Context, like_BDA3: Tensor, seed: int, stream: str, steps: int
) -> list[Motions]:
    """Return the motions of all samples, one item per rollout step; training has one step."""
    batch, samples = like_BDA3.shape[:2]
    draw = Draw(seed, stream, context.step, context.example)
    # Four numbers define a rotation, three a translation; the eighth is unused.
    starts_S = _starts(steps, _STEP_STRIDE, like_BDA3.device)
    numbers_SBE = _batched(draw.normal_table_on(starts_S, 8 * samples), batch, 1)
    numbers_SBD8 = numbers_SBE.to(like_BDA3.dtype).unflatten(-1, (samples, 8))
    rotation_SBD33 = quaternion_to_rotation(numbers_SBD8[..., :4])
    shift_SBD13 = numbers_SBD8[..., 4:7].unsqueeze(3)
    return [Motions(*pair) for pair in zip(rotation_SBD33, shift_SBD13, strict=True)]


def apply_motions(x_BDA3: Tensor, mask_BA: Tensor, motions: Motions) -> Tensor:
    """Centre each sample, then apply its motion (Algorithm 19)."""
    weight_BDA = mask_BA.unsqueeze(1).expand(-1, x_BDA3.shape[1], -1).to(x_BDA3.dtype)
    centred_BDA3 = x_BDA3 - weighted_mean(x_BDA3, weight_BDA)
    moved_BDA3 = centred_BDA3 @ motions.rotation_BD33.transpose(-1, -2) + motions.shift_BD13
    return moved_BDA3 * mask_BA[:, None, :, None]


def augmented(x_BDA3: Tensor, mask_BA: Tensor, context: Context, seed: int, stream: str) -> Tensor:
    """Centre positions and apply one random motion per sample, as for the labels in training."""
    return apply_motions(x_BDA3, mask_BA, random_motions(context, x_BDA3, seed, stream, 1)[0])


def noise_levels(context: Context, mask_BA: Tensor, samples: int, seed: int) -> Tensor:
    """Return noise levels [B, D] of training, ångström: 16 · exp(−1.2 + 1.5 n), n unit normal."""
    draw = Draw(seed, "noise level", context.step, context.example)
    normal_BD = _batched(draw.normal_on(mask_BA.device, samples), mask_BA.shape[0])
    return SIGMA_DATA * torch.exp(-1.2 + 1.5 * normal_BD)


def _starts(count: int, stride: int, device: torch.device) -> Tensor:
    """Return `count` first indices, `stride` apart."""
    return torch.arange(count, dtype=torch.int64, device=device) * stride


def _batched(draws: Tensor, batch: int, axis: int = 0) -> Tensor:
    """Return draws with a batch axis at `axis`, which is inserted if missing."""
    if draws.dim() == axis + 2:
        return draws
    return draws.unsqueeze(axis).expand(*draws.shape[:axis], batch, -1)
