"""Causal attention, plain and fused, of the two ways to say where a token is.

Both compute softmax(q kᵀ / √D + bias) v over each token and those before it. ALiBi (Press et al.,
2022) has a bias linear in the distance; the rotary embedding (Su et al., 2021) has none, and turns
queries and keys by angles linear in their positions.

Plain attention makes every logit. The fused ways are flash kernels. With ALiBi that is compiled
FlexAttention on an accelerator, where a dense bias would keep the flash kernels from being chosen;
on a CPU, where FlexAttention has no backward pass, it is torch's flash kernel for CPUs with the
bias of some rows at a time.

Shape suffixes: B batch, T tokens, R some rows of T, H heads, D head width.
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import _get_current_dispatch_mode

from refsys.precision import Precision
from workloads.language_model.alibi_flash import alibi_attention
from workloads.language_model.presets import LanguageModelConfig

# The ways, as records name them.
MATERIALIZED = "materialized logits"
FLASH_ON_CPU = "flash on the CPU"
FLEX = "FlexAttention, compiled"
FUSED = "scaled_dot_product_attention"
DENSE_BIAS = "scaled_dot_product_attention with a dense bias"

ROTARY_BASE = 10_000.0

# Queries, keys and values [B, H, T, D] to the same.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Positions(ABC):
    """One way to say where a token is, and attention with it.

    Attributes:
        constants: The tensors that it holds between steps.
    """

    constants: tuple[Tensor, ...]

    @abstractmethod
    def best(self, device: torch.device, dtype: torch.dtype) -> str:
        """The fused way for queries of that dtype on that device, else the plain one."""

    @abstractmethod
    def by(self, way: str) -> Attend:
        """Attention in one of the ways."""


class Alibi(Positions):
    """The bias slope · (key − query); head h of H, counted from 1, has the slope 2^(−8 h / H).

    Attributes:
        slopes_H: The slopes.
        score: The bias as FlexAttention asks for it.
    """

    def __init__(self, config: LanguageModelConfig, precision: Precision, tokens: int) -> None:
        heads_H = torch.arange(1, config.heads + 1, dtype=precision.softmax)
        self.slopes_H = torch.exp2(-8.0 * heads_H / config.heads)
        self.constants = (self.slopes_H,)
        self.score = _alibi_score(self.slopes_H)
        self._tokens = tokens

    def best(self, device: torch.device, dtype: torch.dtype) -> str:
        """See `Positions`; where a dispatch mode watches, nothing can be compiled."""
        if device.type != "cuda":
            return FLASH_ON_CPU
        if dtype == torch.float64:
            return MATERIALIZED
        return FLEX if _get_current_dispatch_mode() is None else DENSE_BIAS

    def by(self, way: str) -> Attend:
        """See `Positions`."""
        if way == FLEX:
            # Found here, so that blocks that are compiled meet them as constants.
            flex, mask = _compiled_flex(), self._causal
            return lambda q, k, v: flex(q, k, v, score_mod=self.score, block_mask=mask)
        return {
            MATERIALIZED: self._plain,
            FLASH_ON_CPU: self._flash_on_cpu,
            DENSE_BIAS: self._with_dense_bias,
        }[way]

    def bias(self) -> Tensor:
        """[H, T, T]: the whole bias, −∞ for later keys."""
        slopes_H = self.slopes_H
        places_T = torch.arange(self._tokens, dtype=slopes_H.dtype, device=slopes_H.device)
        distances_TT = places_T - places_T.unsqueeze(1)
        distances_TT.masked_fill_(distances_TT > 0, -torch.inf)
        return slopes_H.view(-1, 1, 1) * distances_TT

    def _plain(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        return attend_plainly(q_BHTD, k_BHTD, v_BHTD, self.bias())

    def _flash_on_cpu(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        return alibi_attention(q_BHTD, k_BHTD, v_BHTD, self.slopes_H)[0]

    def _with_dense_bias(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        bias_HTT = self.bias().to(q_BHTD.dtype)
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=bias_HTT)

    @functools.cached_property
    def _causal(self) -> Any:
        return causal_blocks(self._tokens, self.slopes_H.device)


class Rotary(Positions):
    """Turns the pair (i, i + D / 2) of a head by the angle position · 10,000^(−2 i / D)."""

    def __init__(self, config: LanguageModelConfig, precision: Precision, tokens: int) -> None:
        self._softmax = precision.softmax
        pairs = torch.arange(config.head_width // 2, dtype=torch.float64)
        rates = ROTARY_BASE ** (-2.0 * pairs / config.head_width)
        places_T = torch.arange(tokens, dtype=torch.float64)
        angles_TD = torch.outer(places_T, rates).repeat(1, 2)
        self._cosines_TD = angles_TD.cos().to(precision.activations)
        self._sines_TD = angles_TD.sin().to(precision.activations)
        self.constants = (self._cosines_TD, self._sines_TD)

    def best(self, device: torch.device, dtype: torch.dtype) -> str:
        """See `Positions`."""
        if device.type != "cuda":
            return FLASH_ON_CPU
        return MATERIALIZED if dtype == torch.float64 else FUSED

    def by(self, way: str) -> Attend:
        """See `Positions`."""
        attend = {
            MATERIALIZED: self._plain,
            FLASH_ON_CPU: _causal_flash_on_cpu,
            FUSED: _causal_flash,
        }[way]
        return lambda q, k, v: attend(self.turned(q), self.turned(k), v)

    def turned(self, x_BHTD: Tensor) -> Tensor:
        """Queries or keys, turned by the angles of their positions."""
        first, second = x_BHTD.chunk(2, dim=-1)
        quarter_BHTD = torch.cat([-second, first], dim=-1)
        return x_BHTD * self._cosines_TD + quarter_BHTD * self._sines_TD

    def _plain(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        tokens = q_BHTD.shape[2]
        shape = (1, 1, tokens, tokens)
        later = torch.full(shape, -torch.inf, dtype=self._softmax, device=q_BHTD.device)
        return attend_plainly(q_BHTD, k_BHTD, v_BHTD, later.triu(1))


def positions(config: LanguageModelConfig, precision: Precision, tokens: int) -> Positions:
    """What a model of that family has, for sequences of `tokens`, on the default device."""
    kind = Alibi if config.family == "bloom" else Rotary
    return kind(config, precision, tokens)


def attend_plainly(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, bias: Tensor) -> Tensor:
    """Attention by its formula; logits and softmax are in the dtype of `bias`: the specification.

    Args:
        q_BHTD: Queries.
        k_BHTD: Keys.
        v_BHTD: Values.
        bias: Broadcasts to [B, H, T, T]; −∞ where a key is not seen.
    """
    logits_BHTT = (q_BHTD @ k_BHTD.transpose(-1, -2)).to(bias.dtype)
    weights_BHTT = torch.softmax(logits_BHTT / math.sqrt(q_BHTD.shape[-1]) + bias, dim=-1)
    return weights_BHTT.to(v_BHTD.dtype) @ v_BHTD


def causal_blocks(tokens: int, device: torch.device) -> Any:
    """FlexAttention's mask of each token and those before it, which skips blocks of later ones."""
    from torch.nn.attention.flex_attention import create_block_mask

    def earlier(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        del batch, head
        return q >= k

    return create_block_mask(earlier, None, None, tokens, tokens, device=device)


def _alibi_score(slopes_H: Tensor) -> Callable[..., Tensor]:
    def score(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        del batch
        return score + slopes_H[head] * (k - q)

    return score


@functools.cache
def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def _causal_flash(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    # Without this torch may take its plain way without a word.
    fused = [
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
    ]
    with sdpa_kernel(fused):
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True)


def _causal_flash_on_cpu(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(q_BHTD, k_BHTD, v_BHTD, 0.0, True)[0]
