"""Decoder-only transformer in the style of BLOOM or Llama.

Weights are stored in the parameter dtype of the precision policy and cast where they are used.
Norms compute their statistics in float32 or, for float64 inputs, in float64.

Shape suffixes: B batch, T tokens, W width, H heads, D head width, F hidden width of the MLP,
V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

from refsys.model.chunks import recomputed
from refsys.model.initialization import Initializer, ones, zeros
from refsys.model.layers import Linear
from refsys.model.recycling import ComponentModel
from refsys.ops.rounds import equal_blocks
from refsys.precision import Precision
from refsys.streams import Draw
from workloads.language_model.attention import MATERIALIZED, Attend, positions
from workloads.language_model.losses import (
    TiedGradient,
    chunked_cross_entropy,
    lookup,
    plain_cross_entropy,
)
from workloads.language_model.presets import LanguageModelConfig

FAIR, NAIVE = VARIANTS = ("fair", "naive")
EPSILON = 1e-5
# Standard deviation of initial weights in both families.
DEVIATION = 0.02
# Limit on weights sampled at once: intermediates take several times the memory of the weights.
_WEIGHTS_AT_ONCE = 2**22


def normal(deviation: float) -> Initializer:
    """Return an initializer to normals of mean 0 and the given standard deviation."""

    def initializer(weight: Tensor, draw: Draw) -> Tensor:
        out = torch.empty_like(weight)
        for start in range(0, weight.numel(), _WEIGHTS_AT_ONCE):
            part = out.view(-1)[start : start + _WEIGHTS_AT_ONCE]
            part.copy_(draw.normal_on(weight.device, part.numel(), start)).mul_(deviation)
        return out

    return initializer


class LayerNorm(nn.Module):
    """LayerNorm: (x − mean) / √(variance + ε) · weight + bias."""

    def __init__(self, width: int, precision: Precision) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=precision.parameters))
        self.bias = nn.Parameter(torch.empty(width, dtype=precision.parameters))
        self.initializers = {"weight": ones, "bias": zeros}

    def forward(self, x_BTW: Tensor) -> Tensor:
        """Return [B, T, W]."""
        weight_W, bias_W = self.weight.to(x_BTW.dtype), self.bias.to(x_BTW.dtype)
        return F.layer_norm(x_BTW, weight_W.shape, weight_W, bias_W, EPSILON)


class RMSNorm(nn.Module):
    """RMSNorm: x / √(mean of x² + ε) · weight."""

    def __init__(self, width: int, precision: Precision) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, dtype=precision.parameters))
        self.initializers = {"weight": ones}

    def forward(self, x_BTW: Tensor) -> Tensor:
        """Return [B, T, W]."""
        weight_W = self.weight.to(x_BTW.dtype)
        if x_BTW.is_cuda:
            return F.rms_norm(x_BTW, weight_W.shape, weight_W, EPSILON)
        return _RootMeanSquareNorm.apply(x_BTW, weight_W)


class _RootMeanSquareNorm(torch.autograd.Function):
    """RMSNorm that saves the same tensors as the fused CUDA kernel, which torch lacks on a CPU."""

    @staticmethod
    def forward(ctx: Any, x_BTW: Tensor, weight_W: Tensor) -> Tensor:
        wide = x_BTW.double() if x_BTW.dtype == torch.float64 else x_BTW.float()
        inverse_BT1 = torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)
        ctx.save_for_backward(x_BTW, weight_W, inverse_BT1)
        return (wide * inverse_BT1 * weight_W).to(x_BTW.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTW: Tensor) -> tuple[Tensor, Tensor]:
        x_BTW, weight_W, inverse_BT1 = ctx.saved_tensors
        unit_BTW = x_BTW * inverse_BT1
        scaled_BTW = grad_BTW * weight_W.to(unit_BTW.dtype)
        along_BT1 = (scaled_BTW * unit_BTW).mean(-1, keepdim=True)
        grad_x_BTW = (scaled_BTW - unit_BTW * along_BT1) * inverse_BT1
        grad_weight_W = (grad_BTW * unit_BTW).flatten(0, -2).sum(0)
        return grad_x_BTW.to(x_BTW.dtype), grad_weight_W.to(weight_W.dtype)


class Attention(nn.Module):
    """Causal self-attention; `attend` applies the position encoding."""

    def __init__(self, config: LanguageModelConfig, precision: Precision) -> None:
        super().__init__()
        self._heads = 3, config.heads, config.head_width
        self.inputs = linear(config, config.width, 3 * config.width, precision)
        self.output = linear(config, config.width, config.width, precision, residual=True)

    def forward(self, x_BTW: Tensor, attend: Attend) -> Tensor:
        """Return [B, T, W]."""
        q_BHTD, k_BHTD, v_BHTD = (
            part_BTHD.transpose(1, 2)
            for part_BTHD in self.inputs(x_BTW).unflatten(-1, self._heads).unbind(2)
        )
        out_BHTD = attend(q_BHTD, k_BHTD, v_BHTD)
        return self.output(out_BHTD.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """MLP W₂ gelu(W₁ x), with the tanh approximation of GELU."""

    def __init__(self, config: LanguageModelConfig, precision: Precision) -> None:
        super().__init__()
        self.inputs = linear(config, config.width, config.hidden, precision)
        self.output = linear(config, config.hidden, config.width, precision, residual=True)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """Return [B, T, W]."""
        return self.output(F.gelu(self.inputs(x_BTW), approximate="tanh"))


class GatedMLP(nn.Module):
    """Gated MLP W₃ (silu(W₁ x) · W₂ x)."""

    def __init__(self, config: LanguageModelConfig, precision: Precision) -> None:
        super().__init__()
        self.inputs = linear(config, config.width, 2 * config.hidden, precision)
        self.output = linear(config, config.hidden, config.width, precision, residual=True)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """Return [B, T, W]."""
        gate_BTF, up_BTF = self.inputs(x_BTW).chunk(2, dim=-1)
        return self.output(F.silu(gate_BTF) * up_BTF)


class Block(nn.Module):
    """Pre-norm block: x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: LanguageModelConfig, precision: Precision) -> None:
        super().__init__()
        norm, mlp = (LayerNorm, MLP) if config.family == "bloom" else (RMSNorm, GatedMLP)
        self.attention_norm = norm(config.width, precision)
        self.attention = Attention(config, precision)
        self.mlp_norm = norm(config.width, precision)
        self.mlp = mlp(config, precision)

    def forward(self, x_BTW: Tensor, attend: Attend) -> Tensor:
        """Return [B, T, W]."""
        x_BTW = x_BTW + self.attention(self.attention_norm(x_BTW), attend)
        return x_BTW + self.mlp(self.mlp_norm(x_BTW))


class Embedding(nn.Module):
    """Embedding of the vocabulary, with a weight that is tied to the head."""

    def __init__(self, config: LanguageModelConfig, precision: Precision) -> None:
        super().__init__()
        shape = config.vocabulary, config.width
        self.weight = nn.Parameter(torch.empty(shape, dtype=precision.parameters))
        self.initializers = {"weight": normal(DEVIATION)}
        self._dtype = precision.activations

    def forward(self, ids_BT: Tensor, tied: TiedGradient | None) -> Tensor:
        """Return the embeddings [B, T, W] of ids [B, T]."""
        if tied is None or not torch.is_grad_enabled():
            return F.embedding(ids_BT, self.weight).to(self._dtype)
        return lookup(ids_BT, self.weight, tied, self._dtype)


class Head(nn.Module):
    """Next-token loss with the tied weight of the embedding."""

    def __init__(self, precision: Precision, rows: int) -> None:
        super().__init__()
        self._losses = precision.losses
        self._rows = rows

    def forward(
        self, x_BTW: Tensor, weight_VW: Tensor, targets_BT: Tensor, tied: TiedGradient | None
    ) -> Tensor:
        """Return the mean cross-entropy over the targets; plain if `tied` is None, else chunked."""
        flat = x_BTW.flatten(0, 1), weight_VW, targets_BT.flatten()
        if tied is None:
            return plain_cross_entropy(*flat, losses=self._losses)
        return chunked_cross_entropy(*flat, losses=self._losses, rows=self._rows, tied=tied)


class LanguageModel(ComponentModel):
    """Language model, from token ids to the mean cross-entropy of the next tokens.

    Attributes:
        positions: Position encoding.
        ran: Implementations of attention, loss and blocks in the last forward pass.
    """

    def __init__(
        self,
        config: LanguageModelConfig,
        precision: Precision,
        *,
        tokens: int,
        variant: str = FAIR,
        rows: int = 1,
        checkpointing: bool = False,
        compiled: bool = False,
    ) -> None:
        """Create the model on the default device, with uninitialized weights.

        Args:
            config: Preset.
            precision: Dtype table.
            tokens: Length of every sequence.
            variant: ``fair``, or ``naive``, which materializes the logits of attention and head.
            rows: Tokens per chunk of the loss, in the fair variant.
            checkpointing: Whether blocks recompute their activations in the backward pass.
            compiled: Whether blocks go through `torch.compile`.
        """
        super().__init__()
        bloom = config.family == "bloom"
        norm = LayerNorm if bloom else RMSNorm
        self.embedding = Embedding(config, precision)
        self.embedding_norm = norm(config.width, precision) if bloom else nn.Identity()
        stack = [Block(config, precision) for _ in range(config.blocks)]
        self.blocks = nn.ModuleList(stack)
        self.final_norm = norm(config.width, precision)
        self.head = Head(precision, rows)
        self.positions = positions(config, precision, tokens)
        self.ran: dict[str, str] = {}
        self._stack = tuple(stack)
        self._fair = variant == FAIR
        self._checkpointing = checkpointing
        self._compiled = torch.compile(_run, dynamic=False) if compiled else None

    def forward(self, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            ids_BT: int64 ids of the tokens.
            targets_BT: int64 ids of the next tokens; −1 where there is none.
        """
        tied = TiedGradient() if self._fair else None
        x_BTW = self.embedding_norm(self.embedding(ids_BT, tied))
        attention = self.positions.best(x_BTW.device, x_BTW.dtype) if self._fair else MATERIALIZED
        run = self._runner()
        self.ran = {
            "attention": attention,
            "blocks": "eager" if run is _run else "compiled",
            "loss": "chunked logits" if self._fair else "all logits",
        }
        attend = self.positions.attend_with(attention)
        for block in equal_blocks(self._stack):
            if self._checkpointing:
                x_BTW = recomputed(run, block, x_BTW, attend)
            else:
                x_BTW = run(block, x_BTW, attend)
        return self.head(self.final_norm(x_BTW), self.embedding.weight, targets_BT, tied)

    def _runner(self) -> Callable[[nn.Module, Tensor, Attend], Tensor]:
        """Return the function that runs a block; under a dispatch mode it is never compiled."""
        if self._compiled is None or _get_current_dispatch_mode() is not None:
            return _run
        return self._compiled

    def components(self) -> dict[str, nn.ModuleList]:
        """See `ComponentModel`; the head has no parameters of its own."""
        norms = [norm for block in self._stack for norm in (block.attention_norm, block.mlp_norm)]
        parts: dict[str, list[nn.Module]] = {
            "embedding": [self.embedding, self.embedding_norm],
            "attention": [block.attention for block in self._stack],
            "mlp": [block.mlp for block in self._stack],
            "norms": [*norms, self.final_norm],
            "head": [self.head],
        }
        return {name: nn.ModuleList(modules) for name, modules in parts.items()}


def _run(block: nn.Module, x_BTW: Tensor, attend: Attend) -> Tensor:
    return block(x_BTW, attend)


def linear(
    config: LanguageModelConfig,
    inputs: int,
    outputs: int,
    precision: Precision,
    *,
    residual: bool = False,
) -> Linear:
    """Return a linear layer; layers that write to the residual stream have smaller weights."""
    deviation = DEVIATION / math.sqrt(2 * config.blocks) if residual else DEVIATION
    bias = config.family == "bloom"
    return Linear(inputs, outputs, bias=bias, initializer=normal(deviation), precision=precision)
