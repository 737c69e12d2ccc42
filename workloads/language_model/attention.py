"""Causal attention, plain and fused, with ALiBi or rotary positions.

Both compute softmax(q kᵀ / √D + bias) v over each token and those before it. ALiBi (Press et al.,
2022) has a bias linear in the distance; the rotary embedding (Su et al., 2021) has none, and
rotates queries and keys by angles linear in their positions.

Plain attention materializes all logits. The fused implementations are flash kernels. For ALiBi that
is compiled FlexAttention on an accelerator, where torch does not select a flash kernel if there is
a dense bias. On a CPU, where FlexAttention has no backward pass, it is torch's CPU flash kernel
with the bias of a block of rows at a time.

Shape suffixes: B batch, T tokens, H heads, D head width.
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

# Implementations, as named in records.
MATERIALIZED = "materialized logits"
FLASH_ON_CPU = "flash on the CPU"
FLEX = "FlexAttention, compiled"
FUSED = "scaled_dot_product_attention"
DENSE_BIAS = "scaled_dot_product_attention with a dense bias"

ROTARY_BASE = 10_000.0

# Function of queries, keys and values [B, H, T, D] that returns [B, H, T, D].
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Positions(ABC):
    """Position encoding, with the attention that applies it.

    Attributes:
        constants: Tensors that persist between steps.
    """

    constants: tuple[Tensor, ...]

    @abstractmethod
    def best(self, device: torch.device, dtype: torch.dtype) -> str:
        """Return the fastest implementation for queries of this dtype on this device."""

    @abstractmethod
    def attend_with(self, implementation: str) -> Attend:
        """Return the attention function of an implementation."""


class Alibi(Positions):
    """Bias slope · (key − query); head h of H, counted from 1, has the slope 2^(−8 h / H).

    Attributes:
        slopes_H: Slope of each head.
        score: Bias as a `score_mod` of FlexAttention.
    """

    def __init__(self, config: LanguageModelConfig, precision: Precision, tokens: int) -> None:
        heads_H = torch.arange(1, config.heads + 1, dtype=precision.softmax)
        self.slopes_H = torch.exp2(-8.0 * heads_H / config.heads)
        self.constants = (self.slopes_H,)
        self.score = _alibi_score(self.slopes_H)
        self._tokens = tokens

    def best(self, device: torch.device, dtype: torch.dtype) -> str:
        """See `Positions`. Under a dispatch mode FlexAttention cannot be compiled."""
        if device.type != "cuda":
            return FLASH_ON_CPU
        if dtype == torch.float64:
            return MATERIALIZED
        return FLEX if _get_current_dispatch_mode() is None else DENSE_BIAS

    def attend_with(self, implementation: str) -> Attend:
        """See `Positions`."""
        if implementation == FLEX:
            # Evaluated outside the lambda, so that they are constants in compiled blocks.
            flex, mask = _compiled_flex(), self._causal
            return lambda q, k, v: flex(q, k, v, score_mod=self.score, block_mask=mask)
        return {
            MATERIALIZED: self._plain,
            FLASH_ON_CPU: self._flash_on_cpu,
            DENSE_BIAS: self._with_dense_bias,
        }[implementation]

    def bias(self) -> Tensor:
        """Return the dense bias [H, T, T], −∞ for later keys."""
        slopes_H = self.slopes_H
        positions_T = torch.arange(self._tokens, dtype=slopes_H.dtype, device=slopes_H.device)
        distances_TT = positions_T - positions_T.unsqueeze(1)
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
    """Rotation of the pair (i, i + D / 2) of a head by the angle position · 10,000^(−2 i / D)."""

    def __init__(self, config: LanguageModelConfig, precision: Precision, tokens: int) -> None:
        self._softmax = precision.softmax
        pairs = torch.arange(config.head_width // 2, dtype=torch.float64)
        rates = ROTARY_BASE ** (-2.0 * pairs / config.head_width)
        positions_T = torch.arange(tokens, dtype=torch.float64)
        angles_TD = torch.outer(positions_T, rates).repeat(1, 2)
        self._cosines_TD = angles_TD.cos().to(precision.activations)
        self._sines_TD = angles_TD.sin().to(precision.activations)
        self.constants = (self._cosines_TD, self._sines_TD)

    def best(self, device: torch.device, dtype: torch.dtype) -> str:
        """See `Positions`."""
        if device.type != "cuda":
            return FLASH_ON_CPU
        return MATERIALIZED if dtype == torch.float64 else FUSED

    def attend_with(self, implementation: str) -> Attend:
        """See `Positions`."""
        attend = {
            MATERIALIZED: self._plain,
            FLASH_ON_CPU: _causal_flash_on_cpu,
            FUSED: _causal_flash,
        }[implementation]
        return lambda q, k, v: attend(self.rotated(q), self.rotated(k), v)

    def rotated(self, x_BHTD: Tensor) -> Tensor:
        """Return queries or keys rotated by the angles of their positions."""
        first, second = x_BHTD.chunk(2, dim=-1)
        quarter_turn_BHTD = torch.cat([-second, first], dim=-1)
        return x_BHTD * self._cosines_TD + quarter_turn_BHTD * self._sines_TD

    def _plain(self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        tokens = q_BHTD.shape[2]
        shape = (1, 1, tokens, tokens)
        later = torch.full(shape, -torch.inf, dtype=self._softmax, device=q_BHTD.device)
        return attend_plainly(q_BHTD, k_BHTD, v_BHTD, later.triu(1))


def positions(config: LanguageModelConfig, precision: Precision, tokens: int) -> Positions:
    """Return the position encoding of the model family, for `tokens`, on the default device."""
    encoding = Alibi if config.family == "bloom" else Rotary
    return encoding(config, precision, tokens)


def attend_plainly(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, bias: Tensor) -> Tensor:
    """Compute attention by its formula, the reference; the softmax is in the dtype of `bias`.

    Args:
        q_BHTD: Queries.
        k_BHTD: Keys.
        v_BHTD: Values.
        bias: Broadcasts to [B, H, T, T]; −∞ where a key is masked.
    """
    logits_BHTT = (q_BHTD @ k_BHTD.transpose(-1, -2)).to(bias.dtype)
    weights_BHTT = torch.softmax(logits_BHTT / math.sqrt(q_BHTD.shape[-1]) + bias, dim=-1)
    return weights_BHTT.to(v_BHTD.dtype) @ v_BHTD


def causal_blocks(tokens: int, device: torch.device) -> Any:
    """Return the causal block mask of FlexAttention, which skips blocks of later keys."""
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
    # Without this context torch may silently fall back to its plain implementation.
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
