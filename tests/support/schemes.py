"""Pair updates under each sharding scheme, in float64: results, gradients and traffic."""

from collections import Counter
from dataclasses import dataclass
from functools import cache, partial

import torch
from support.rank_threads import on_ranks
from support.trunks import FLOAT64, randomize
from torch import Tensor, nn

from refsys.model.context import Context
from refsys.model.pairformer import PairStack
from refsys.model.triangle_multiplication import (
    TriangleMultiplicationIncoming,
    TriangleMultiplicationOutgoing,
)
from refsys.parallel import RowSlab, SingleRank
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.schemes import Grid

BATCH, FACTOR, ITEM = 2, 2, 8


class TileLayout(SingleRank):
    """Layout of one tile, as far as the modules of triangle multiplication use a layout."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid.tokens)
        self.grid = grid

    def by_channels(self, function, a_BRNC, b_BRNC, *, outgoing):
        return self.grid.multiply(a_BRNC, b_BRNC, outgoing=outgoing)


class Multiplications(nn.Module):
    """Both triangle multiplications, one after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.outgoing = TriangleMultiplicationOutgoing(channels, 0.0, FLOAT64)
        self.incoming = TriangleMultiplicationIncoming(channels, 0.0, FLOAT64)

    def forward(self, z, mask, context):
        return self.incoming(self.outgoing(z, mask, context), mask, context)


def pair_block(channels, heads):
    return PairStack(channels, heads, 0.0, FACTOR, FLOAT64)


def outgoing(channels):
    return TriangleMultiplicationOutgoing(channels, 0.0, FLOAT64)


@dataclass
class Result:
    """Result of all ranks: whole tensors, sums over ranks, and the traffic of each rank.

    Attributes:
        out: [B, N, N, C] output.
        gradient: [B, N, N, C] gradient of the input.
        parameters: Gradient of each parameter by name.
        traffic: Bytes and messages of each rank by (direction, "nbytes" or "messages").
    """

    out: Tensor
    gradient: Tensor
    parameters: dict[str, Tensor]
    traffic: list[Counter]


@cache
def inputs(tokens, channels, batch=BATCH):
    """Return pairs, the cotangent of the output, and a mask without one token of each example."""
    generator = torch.Generator().manual_seed(11)
    z, cotangent = (
        torch.randn(batch, tokens, tokens, channels, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    mask = torch.ones(batch, tokens, dtype=torch.bool)
    mask[:, tokens // 2] = False
    return z, cotangent, mask.unsqueeze(1) & mask.unsqueeze(2)


def step(make, layout, z, cotangent, mask):
    """Return the output and the gradients of the input and of the parameters."""
    module = make()
    randomize(module)
    z = z.clone().requires_grad_()
    out = module(z, mask, Context(layout=layout))
    out.backward(cotangent)
    return out.detach(), z.grad, {name: p.grad for name, p in module.named_parameters()}


def serial(make, tokens, channels, batch=BATCH):
    """Return the result of one rank."""
    return Result(*step(make, SingleRank(tokens), *inputs(tokens, channels, batch)), [])


def divided(make, scheme, ranks, tokens, channels, batch=BATCH):
    """Return the result of several ranks, with `scheme` a class of row slabs or of grids."""
    whole = inputs(tokens, channels, batch)

    def program(rank):
        ledger = Ledger()
        owner = scheme(tokens, GroupExchange(ledger=ledger))
        if isinstance(owner, RowSlab):
            layout, region = owner, (slice(None), slice(owner.start, owner.stop))
        else:
            layout = TileLayout(owner)
            region = slice(None), slice(*owner.rows), slice(*owner.columns)
        return region, step(make, layout, *(x[region] for x in whole)), traffic_of(ledger)

    results = on_ranks(ranks, program)
    out, gradient = torch.zeros_like(whole[0]), torch.zeros_like(whole[0])
    parameters = Counter()
    for region, (own_out, own_gradient, own_parameters), _traffic in results:
        out[region], gradient[region] = own_out, own_gradient
        for name, value in own_parameters.items():
            parameters[name] = parameters[name] + value
    return Result(out, gradient, dict(parameters), [traffic for *_, traffic in results])


def traffic_of(ledger):
    counts = Counter()
    for key, traffic in ledger.entries().items():
        counts[key.direction, "nbytes"] += traffic.nbytes
        counts[key.direction, "messages"] += traffic.messages
    return counts


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())
