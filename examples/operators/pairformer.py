"""Pair track of a Pairformer in plain PyTorch, independent of foldperf."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TriangleAttention(nn.Module):
    """Algorithm 14 (starting node), or 15 (ending node) on the transposed tensor."""

    def __init__(self, channels: int, heads: int, *, ending: bool) -> None:
        super().__init__()
        self.heads, self.ending = heads, ending
        self.norm = nn.LayerNorm(channels)
        self.to_q, self.to_k, self.to_v, self.to_gate = (
            nn.Linear(channels, channels, bias=False) for _ in range(4)
        )
        self.to_bias = nn.Linear(channels, heads, bias=False)
        self.to_out = nn.Linear(channels, channels, bias=False)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """[batch, token, token, c] → the same, updated; `mask` is [batch, token, token] bool."""
        if self.ending:
            z = z.transpose(1, 2)
        x = self.norm(z)
        q, k, v = (
            to(x).unflatten(-1, (self.heads, -1)).transpose(2, 3)
            for to in (self.to_q, self.to_k, self.to_v)
        )
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        logits = logits + self.to_bias(x).permute(0, 3, 1, 2).unsqueeze(1)
        logits = logits.masked_fill(~mask[:, :, None, None, :], torch.finfo(z.dtype).min)
        out = (logits.softmax(-1) @ v).transpose(2, 3).flatten(-2)
        z = z + self.to_out(torch.sigmoid(self.to_gate(x)) * out)
        return z.transpose(1, 2) if self.ending else z


class Transition(nn.Module):
    """Algorithm 11."""

    def __init__(self, channels: int, factor: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.to_gate, self.to_value = (
            nn.Linear(channels, factor * channels, bias=False) for _ in range(2)
        )
        self.to_out = nn.Linear(factor * channels, channels, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """[..., c] → [..., c]."""
        x = self.norm(z)
        return z + self.to_out(F.silu(self.to_gate(x)) * self.to_value(x))


class PairBlock(nn.Module):
    """Both triangle attentions, then the transition."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.starting = TriangleAttention(channels, heads, ending=False)
        self.ending = TriangleAttention(channels, heads, ending=True)
        self.transition = Transition(channels)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """[batch, token, token, c] → the same, updated."""
        return self.transition(self.ending(self.starting(z, mask), mask))
