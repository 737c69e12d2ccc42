"""Pair updates under each sharding scheme, in float64: results, gradients and traffic.

As a script, with `tests` in PYTHONPATH, print the measured volumes of `docs/sharding.md`.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from refsys.model.context import Context
from refsys.model.pairformer import PairStack
from refsys.model.triangle_multiplication import (
    TriangleMultiplicationIncoming,
    TriangleMultiplicationOutgoing,
)
from refsys.ops.triangle_multiplication import contraction
from refsys.parallel import RowSlab, SingleRank
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.schemes import DAP, Grid, MegaFold
from refsys.precision import PRECISIONS, Precision
from support.rank_threads import on_ranks
from support.trunks import FLOAT64, randomize

BATCH, FACTOR, ITEM = 2, 1, 8
# Setting of the table: both axes divide by 2, 4 and 9 ranks, and by grids of side 2 and 3.
TOKENS, CHANNELS, HEADS, COUNTS = 36, 128, 4, (2, 4, 9)
DIRECTIONS = "forward", "backward"


class TileLayout(SingleRank):
    """Layout of one tile, as far as the modules of triangle multiplication use a layout."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid.tokens)
        self.grid = grid

    def by_channels(self, function, a_BRNC, b_BRNC, *, outgoing):
        return self.grid.multiply(a_BRNC, b_BRNC, outgoing=outgoing)


class Multiplications(nn.Module):
    """Both triangle multiplications, one after the other."""

    def __init__(self, channels: int, precision: Precision = FLOAT64) -> None:
        super().__init__()
        self.outgoing = TriangleMultiplicationOutgoing(channels, 0.0, precision)
        self.incoming = TriangleMultiplicationIncoming(channels, 0.0, precision)

    def forward(self, z, mask, context):
        return self.incoming(self.outgoing(z, mask, context), mask, context)


class Contraction(nn.Module):
    """Outgoing contraction of two linear maps of the pairs, without gates, norms and residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a, self.b = (
            nn.Linear(channels, channels, bias=False, dtype=torch.float64) for _ in range(2)
        )

    def forward(self, z, _mask, context):
        function = partial(contraction, outgoing=True)
        return context.layout.by_channels(function, self.a(z), self.b(z), outgoing=True)


def pair_block(channels, heads, precision=FLOAT64):
    return PairStack(channels, heads, 0.0, FACTOR, precision)


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
def inputs(tokens, channels, batch=BATCH, dtype=torch.float64):
    """Return pairs, the cotangent of the output, and a mask without one token of each example."""
    generator = torch.Generator().manual_seed(11)
    z, cotangent = (
        torch.randn(batch, tokens, tokens, channels, generator=generator, dtype=dtype)
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


@cache
def divided(make, scheme, ranks, tokens, channels, batch=BATCH, dtype=torch.float64):
    """Return the result of several ranks, with `scheme` a class of row slabs or of grids."""
    whole = inputs(tokens, channels, batch, dtype)

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


# In units of U the volume is the same in every dtype.
WIDE_MULTIPLICATIONS = partial(Multiplications, CHANNELS, PRECISIONS["float32"])
WIDE_BLOCK = partial(pair_block, CHANNELS, HEADS, PRECISIONS["float32"])


@cache
def volumes(make, scheme, ranks):
    """Return the mean and the largest volume of a rank in U, by direction."""
    result = divided(make, scheme, ranks, TOKENS, CHANNELS, 1, torch.float32)
    traffic, unit = result.traffic, TOKENS**2 * CHANNELS * result.out.element_size() / ranks
    sent = {way: [counts[way, "nbytes"] / unit for counts in traffic] for way in DIRECTIONS}
    return {way: (sum(values) / ranks, max(values)) for way, values in sent.items()}


def table():
    """Return the rows of the table of measured volumes."""
    multiplications, block = "2 triangle multiplications", "pair block"
    measured = [
        (multiplications, "ours", WIDE_MULTIPLICATIONS, RowSlab),
        (multiplications, "Fold-CP (Cannon)", WIDE_MULTIPLICATIONS, Grid),
        (multiplications, "DAP", WIDE_MULTIPLICATIONS, DAP),
        (multiplications, "MegaFold as released", WIDE_MULTIPLICATIONS, MegaFold),
        (block, "ours", WIDE_BLOCK, RowSlab),
        (block, "DAP", WIDE_BLOCK, DAP),
        (block, "MegaFold as released", WIDE_BLOCK, MegaFold),
    ]
    return [
        f"| {operators} | {name} | " + " | ".join(_cells(make, scheme)) + " |"
        for operators, name, make, scheme in measured
    ]


def _cells(make, scheme):
    for ranks in COUNTS:
        if scheme is Grid and ranks == 2:
            yield from ("–", "–")
            continue
        for mean, largest in volumes(make, scheme, ranks).values():
            same = f"{mean:.2f}" == f"{largest:.2f}"
            yield f"{mean:.2f}" if same else f"{mean:.2f} ({largest:.2f})"


if __name__ == "__main__":
    print("\n".join(table()))
