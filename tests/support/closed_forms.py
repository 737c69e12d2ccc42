"""FLOPs of a forward pass of AlphaFold 3 by algorithm at the widths of `full`, in closed form.

A multiply-add has 2 FLOPs; normalization, softmax and pointwise work have none. There are 8 atoms a
token, and the rollout denoises one sample in each of its steps.
"""

from refsys.config import PRESETS, ModelConfig

ATOMS_PER_TOKEN = 8
ROLLOUT_STEPS = 20

# Modules of each part, by the beginning of their paths.
MODULES = {
    "pairformer": ("pairformer.blocks",),
    "msa": ("msa.blocks",),
    "token_transformer": ("diffusion.transformer",),
    "confidence": ("confidence.blocks",),
    "atom_transformers": (
        "input_embedder.atom_encoder.transformer",
        "diffusion.atom_encoder.transformer",
        "diffusion.atom_decoder.transformer",
    ),
}


def pairformer_block(tokens: int) -> float:
    """Return the FLOPs of a block of Algorithm 17."""
    return 1_121_792 * tokens**2 + 1_536 * tokens**3 + 5.0e6 * tokens


def msa_stack(tokens: int, rows: int, blocks: int) -> float:
    """Return the FLOPs of Algorithm 8; the last block has no update of the MSA."""
    # Of the N² terms of a Pairformer block, attention on the single representation has the others.
    pair = 1_116_160 * tokens**2 + 1_536 * tokens**3
    outer = 8_192 * rows * tokens + 2_048 * rows * tokens**2 + 262_144 * tokens**2
    update = (98_304 + 24_576) * rows * tokens + 128 * rows * tokens**2 + 2_048 * tokens**2
    return blocks * (outer + pair) + (blocks - 1) * update


def token_transformer(tokens: int, passes: int, blocks: int) -> float:
    """Return the FLOPs of Algorithm 23 on a number of samples, whose pair biases are shared."""
    return blocks * (passes * (16.5e6 * tokens + 3_072 * tokens**2) + 4_096 * tokens**2)


def atom_transformer(atoms: int, passes: int, blocks: int) -> float:
    """Return the FLOPs of Algorithm 7 on a number of samples, whose conditioning is shared."""
    return blocks * atoms * (0.426e6 * passes + 0.2785e6)


def forward(
    tokens: int, *, samples: int, rows: int, model: ModelConfig = PRESETS["full"]
) -> dict[str, float]:
    """Return the FLOPs of each part in a training step's forward pass, of one cycle.

    Args:
        tokens: Tokens of the example.
        samples: Diffusion samples.
        rows: Rows of the MSA.
        model: Numbers of blocks.
    """
    passes, atoms = samples + ROLLOUT_STEPS, ATOMS_PER_TOKEN * tokens
    block = pairformer_block(tokens)
    # Encoder of the inputs, and encoder and decoder of the diffusion module.
    encoders = [atom_transformer(atoms, count, model.atom_blocks) for count in (1, passes, passes)]
    return {
        "pairformer": model.pairformer_blocks * block,
        "msa": msa_stack(tokens, rows, model.msa_blocks),
        "token_transformer": token_transformer(tokens, passes, model.token_blocks),
        "confidence": model.confidence_blocks * block,
        "atom_transformers": sum(encoders),
    }
