"""Stages of training AlphaFold 3 (section 5.2 of its supplement): crop, samples, loss weights."""

from dataclasses import dataclass

from refsys.config import ModelConfig
from refsys.errors import ArgumentError

# Crops of small presets are multiples of this.
_CROP_STEP = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        tokens: Crop of the full model.
        samples: Diffusion samples of each example, of the full model.
        bond: Weight of the ligand bonds in the diffusion loss.
        pae: Weight of the predicted aligned error in the confidence loss.
        smooth_lddt: Weight of smooth-LDDT in the diffusion loss.
        confidence: Weight of the confidence loss.
        diffusion: Weight of the diffusion loss.
        distogram: Weight of the distogram loss.
    """

    tokens: int
    samples: int
    bond: float = 0.0
    pae: float = 0.0
    smooth_lddt: float = 1.0
    confidence: float = 1e-4
    diffusion: float = 4.0
    distogram: float = 0.03

    def crop(self, model: ModelConfig) -> int:
        """Return the crop of a preset: its own in the first stage, longer in proportion later."""
        return max(_CROP_STEP, model.tokens * self.tokens // 384 // _CROP_STEP * _CROP_STEP)

    def samples_of(self, model: ModelConfig) -> int:
        """Return the number of diffusion samples of each example of a preset."""
        return max(1, model.samples * self.samples // 48)


STAGES = {
    "initial": Stage(tokens=384, samples=48),
    "fine_tuning_1": Stage(tokens=640, samples=32, bond=1.0),
    "fine_tuning_2": Stage(tokens=768, samples=32, bond=1.0),
    "fine_tuning_3": Stage(tokens=768, samples=32, pae=1.0),
}


def stage(name: str) -> Stage:
    """Return the stage of that name.

    Raises:
        ArgumentError: there is none.
    """
    if name not in STAGES:
        raise ArgumentError(f"stage={name!r} does not exist; choose one of {', '.join(STAGES)}")
    return STAGES[name]
