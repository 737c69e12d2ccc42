"""Model presets: tables of hyper-parameters.

``full`` is the released AlphaFold 3. The smaller presets keep its proportions, so that every code
path runs on a laptop (``tiny``), a workstation or one modest GPU.
"""

from dataclasses import dataclass

from refsys.errors import ArgumentError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Hyper-parameters of the model, named as in the AlphaFold 3 supplement.

    Attributes:
        c_s: Width of the single representation.
        c_z: Width of the pair representation.
        c_m: Width of the MSA representation.
        pairformer_blocks: Blocks of Algorithm 17.
        msa_blocks: Blocks of Algorithm 8.
        single_heads: Heads of attention with pair bias (Algorithm 24).
        pair_heads: Heads of triangle attention (Algorithms 14 and 15).
        outer_product_width: Hidden width of the outer product mean (Algorithm 9).
        pair_weighted_heads: Heads of pair-weighted averaging (Algorithm 10).
        transition_factor: Widening of the transitions (Algorithm 11).
        pair_dropout: Rate of the row- and column-shared dropout of pair updates.
        msa_dropout: Rate of the row-shared dropout of MSA updates.
        distogram_bins: Bins of the distogram head.
        max_relative_residue: Clip of the residue and token offsets (Algorithm 3).
        max_relative_chain: Clip of the chain offset (Algorithm 3).
        tokens: Crop size that the preset is meant to train on, tokens.
        alignment_rows: MSA depth that the preset is meant to train on, rows.
        c_t: Width of the template embedder (Algorithm 16).
        c_atom: Width of the atom single representation.
        c_atompair: Width of the atom pair representation.
        c_token: Width of the diffusion token representation.
        template_blocks: Blocks of Algorithm 16.
        confidence_blocks: Blocks of Algorithm 31.
        atom_blocks: Blocks of each atom transformer (Algorithm 7).
        token_blocks: Blocks of the diffusion transformer (Algorithm 23).
        token_heads: Heads of the diffusion transformer.
        samples: Diffusion samples of each example in a training step.
        fourier_features: Fourier features of the noise level (Algorithm 22).
        atom_heads: Heads of the atom transformers.
        templates: Templates of each chain.
    """

    c_s: int
    c_z: int
    c_m: int
    pairformer_blocks: int
    msa_blocks: int
    single_heads: int
    pair_heads: int
    tokens: int
    alignment_rows: int
    c_t: int
    c_atom: int
    c_atompair: int
    c_token: int
    template_blocks: int
    confidence_blocks: int
    atom_blocks: int
    token_blocks: int
    token_heads: int
    samples: int
    fourier_features: int = 256
    atom_heads: int = 4
    templates: int = 4
    outer_product_width: int = 32
    pair_weighted_heads: int = 8
    transition_factor: int = 4
    pair_dropout: float = 0.25
    msa_dropout: float = 0.15
    distogram_bins: int = 64
    max_relative_residue: int = 32
    max_relative_chain: int = 2

    @property
    def c_s_inputs(self) -> int:
        """Width of the input single representation: c_s, residue type, profile, deletion mean."""
        return self.c_s + 31 + 31 + 1

    @property
    def relative_position_width(self) -> int:
        """Width of the one-hot relative position encoding: 139 in the paper."""
        return 2 * (2 * self.max_relative_residue + 2) + 1 + (2 * self.max_relative_chain + 2)


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(
        c_s=64,
        c_z=32,
        c_m=16,
        pairformer_blocks=2,
        msa_blocks=1,
        single_heads=4,
        pair_heads=2,
        tokens=64,
        alignment_rows=16,
        c_t=16,
        c_atom=32,
        c_atompair=8,
        c_token=64,
        template_blocks=1,
        confidence_blocks=1,
        atom_blocks=1,
        token_blocks=2,
        token_heads=4,
        samples=2,
        fourier_features=64,
    ),
    "mini": ModelConfig(
        c_s=192,
        c_z=64,
        c_m=32,
        pairformer_blocks=4,
        msa_blocks=2,
        single_heads=8,
        pair_heads=4,
        tokens=128,
        alignment_rows=64,
        c_t=32,
        c_atom=64,
        c_atompair=16,
        c_token=384,
        template_blocks=1,
        confidence_blocks=1,
        atom_blocks=2,
        token_blocks=4,
        token_heads=8,
        samples=4,
    ),
    "small": ModelConfig(
        c_s=384,
        c_z=128,
        c_m=64,
        pairformer_blocks=8,
        msa_blocks=2,
        single_heads=16,
        pair_heads=4,
        tokens=256,
        alignment_rows=512,
        c_t=64,
        c_atom=128,
        c_atompair=16,
        c_token=768,
        template_blocks=1,
        confidence_blocks=2,
        atom_blocks=3,
        token_blocks=6,
        token_heads=16,
        samples=16,
    ),
    "base": ModelConfig(
        c_s=384,
        c_z=128,
        c_m=64,
        pairformer_blocks=16,
        msa_blocks=4,
        single_heads=16,
        pair_heads=4,
        tokens=384,
        alignment_rows=1024,
        c_t=64,
        c_atom=128,
        c_atompair=16,
        c_token=768,
        template_blocks=2,
        confidence_blocks=4,
        atom_blocks=3,
        token_blocks=12,
        token_heads=16,
        samples=48,
    ),
    "full": ModelConfig(
        c_s=384,
        c_z=128,
        c_m=64,
        pairformer_blocks=48,
        msa_blocks=4,
        single_heads=16,
        pair_heads=4,
        tokens=384,
        alignment_rows=1024,
        c_t=64,
        c_atom=128,
        c_atompair=16,
        c_token=768,
        template_blocks=2,
        confidence_blocks=4,
        atom_blocks=3,
        token_blocks=24,
        token_heads=16,
        samples=48,
    ),
}


def preset(name: str) -> ModelConfig:
    """Return the preset called `name`.

    Raises:
        ArgumentError: no preset has that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ArgumentError(
            f"preset={name!r} does not exist; choose one of {', '.join(PRESETS)}"
        ) from None
