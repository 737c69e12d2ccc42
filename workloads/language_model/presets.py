"""Sizes of the language models.

``bloom-560m`` has exactly the parameters of the released model. ``llama-*`` has the depth, width,
heads and vocabulary of the ``bloom-*`` preset of the same size. Its gated MLP is 8/3 as wide as the
model, rounded up to a multiple of 32, so that its three matrices have as many parameters as two
that are four times as wide. ``*-tiny`` and ``*-mini`` have as many parameters as the AlphaFold 3
presets of those names, about half of them in the embedding, as in BLOOM-560M.
"""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModelConfig:
    """Hyper-parameters of a decoder-only transformer with a tied head.

    Attributes:
        family: ``bloom`` (ALiBi, LayerNorm, GELU, biases, a norm of the embedding) or ``llama``
            (rotary embedding, RMSNorm, SwiGLU, no biases).
        blocks: Transformer blocks.
        width: Width of the residual stream.
        heads: Attention heads; a power of two.
        hidden: Width inside the MLP.
        vocabulary: Size of the vocabulary.
        tokens: Default sequence length.
        counterpart: Default AlphaFold 3 preset of the comparison.
    """

    family: Literal["bloom", "llama"]
    blocks: int
    width: int
    heads: int
    hidden: int
    vocabulary: int
    tokens: int
    counterpart: str

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.width // self.heads

    @property
    def matrix_parameters(self) -> int:
        """Parameters in matrix products, without norms and biases; the tied weight counts once."""
        mlp = (2 if self.family == "bloom" else 3) * self.width * self.hidden
        return self.blocks * (4 * self.width**2 + mlp) + self.vocabulary * self.width

    def step_flops(self, tokens: int) -> int:
        """Return model FLOPs of a step on one sequence: 6 N + 12 L d s for each of s tokens."""
        attention = 12 * self.blocks * self.width * tokens
        return tokens * (6 * self.matrix_parameters + attention)


_BLOOM = {
    "tiny": LanguageModelConfig(
        family="bloom",
        blocks=2,
        width=128,
        heads=4,
        hidden=512,
        vocabulary=3_520,
        tokens=128,
        counterpart="tiny",
    ),
    "mini": LanguageModelConfig(
        family="bloom",
        blocks=8,
        width=256,
        heads=8,
        hidden=1024,
        vocabulary=31_360,
        tokens=128,
        counterpart="mini",
    ),
    "560m": LanguageModelConfig(
        family="bloom",
        blocks=24,
        width=1024,
        heads=16,
        hidden=4096,
        vocabulary=250_880,
        tokens=2048,
        counterpart="full",
    ),
}


def _as_llama(bloom: LanguageModelConfig) -> LanguageModelConfig:
    hidden = -(-8 * bloom.width // (3 * 32)) * 32
    return replace(bloom, family="llama", hidden=hidden)


PRESETS: dict[str, LanguageModelConfig] = {
    **{f"bloom-{size}": config for size, config in _BLOOM.items()},
    **{f"llama-{size}": _as_llama(config) for size, config in _BLOOM.items()},
}
