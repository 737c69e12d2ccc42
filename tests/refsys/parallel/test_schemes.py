"""Shardings of other systems: results equal those of one rank, and traffic equals the formulas."""

from functools import partial
from itertools import islice
from math import isqrt

import pytest
import torch
from support.documents import ROOT
from support.rank_threads import on_ranks
from support.schemes import (
    BATCH,
    CHANNELS,
    HEADS,
    ITEM,
    TOKENS,
    WIDE_BLOCK,
    WIDE_MULTIPLICATIONS,
    Contraction,
    Multiplications,
    divided,
    pair_block,
    relative_error,
    serial,
    table,
    volumes,
)

from refsys.errors import ArgumentError
from refsys.parallel import RowSlab
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.schemes import DAP, LAYOUTS, Grid, MegaFold
from refsys.parallel.shares import shares, sizes

TOLERANCE = 1e-10
# Neither a multiple of the ranks nor of the side of a grid.
UNEVEN, FEW_CHANNELS, FEW_HEADS = 7, 6, 2
BLOCK = partial(pair_block, FEW_CHANNELS, FEW_HEADS)
MULTIPLICATIONS = partial(Multiplications, FEW_CHANNELS)
ONE = serial(BLOCK, UNEVEN, FEW_CHANNELS), serial(MULTIPLICATIONS, UNEVEN, FEW_CHANNELS)


def assert_equal(result, expected):
    pairs = {
        "out": (result.out, expected.out),
        "gradient": (result.gradient, expected.gradient),
        **{name: (result.parameters[name], p) for name, p in expected.parameters.items()},
    }
    for name, (value, reference) in pairs.items():
        error = (value - reference).abs().max()
        assert error <= TOLERANCE * reference.abs().max(), name


@pytest.mark.parametrize("name", LAYOUTS)
def test_named_layout_has_the_values_of_one_rank(name):
    result = divided(BLOCK, LAYOUTS[name], 3, UNEVEN, FEW_CHANNELS)
    torch.testing.assert_close(result.out, ONE[0].out, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_dap_equals_one_rank(ranks):
    assert_equal(divided(BLOCK, DAP, ranks, UNEVEN, FEW_CHANNELS), ONE[0])


@pytest.mark.parametrize("ranks", [4, 9])
def test_cannon_equals_one_rank(ranks):
    assert_equal(divided(MULTIPLICATIONS, Grid, ranks, UNEVEN, FEW_CHANNELS), ONE[1])


def dap_block(rows, ranks):
    """Return the elements that a rank sends forward and backward, and its messages."""
    n, c, h = UNEVEN, FEW_CHANNELS, FEW_HEADS
    swaps = 4 * rows * (n - rows) * c
    gathers = 2 * (ranks - 1) * rows * n * (c + h)
    scatters = 2 * (n - rows) * n * (c + h)
    return gathers + swaps, scatters + swaps, 8 * (ranks - 1)


def own_block(rows, rank, ranks):
    """Return the elements that a rank of a `RowSlab` sends forward and backward."""
    n, c, h = UNEVEN, FEW_CHANNELS, FEW_HEADS
    width = sizes(shares(c, ranks))[rank]
    to_channels, to_rows = rows * n * (c - width), (n - rows) * n * width
    swaps = 2 * rows * (n - rows) * c
    forward = 2 * (2 * to_channels + to_rows) + swaps + 2 * (ranks - 1) * rows * n * h
    backward = 2 * (2 * to_rows + to_channels) + swaps + 2 * (n - rows) * n * h
    return forward, backward


def cannon(tokens, rank, ranks, channels):
    """Return the elements of one multiplication that a rank sends forward and backward."""
    side = isqrt(ranks)
    i, j = divmod(rank, side)
    n = sizes(shares(tokens, side))
    tile, hops = n[i] * n[j], (n[i] + n[j]) * (tokens - n[(i + j - 1) % side])
    skews = (i != 0) + (j != 0)
    forward = tile * ((i != j) + skews) + hops
    backward = tile * ((i != j) + 2 * skews) + 2 * hops
    return channels * forward, channels * backward


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_traffic_of_each_rank_by_dap_equals_the_formula(ranks):
    result = divided(BLOCK, DAP, ranks, UNEVEN, FEW_CHANNELS)
    slabs = sizes(shares(UNEVEN, ranks))
    for rows, traffic in zip(slabs, result.traffic, strict=True):
        forward, backward, messages = dap_block(rows, ranks)
        assert traffic["forward", "nbytes"] == BATCH * ITEM * forward
        assert traffic["backward", "nbytes"] == BATCH * ITEM * backward
        assert traffic["forward", "messages"] == traffic["backward", "messages"] == messages


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_traffic_of_each_rank_by_channels_equals_the_formula(ranks):
    result = divided(BLOCK, RowSlab, ranks, UNEVEN, FEW_CHANNELS)
    for rank, rows in enumerate(sizes(shares(UNEVEN, ranks))):
        forward, backward = own_block(rows, rank, ranks)
        assert result.traffic[rank]["forward", "nbytes"] == BATCH * ITEM * forward
        assert result.traffic[rank]["backward", "nbytes"] == BATCH * ITEM * backward


@pytest.mark.parametrize("ranks", [4, 9])
def test_traffic_of_each_rank_by_cannon_equals_the_formula(ranks):
    result, side = divided(MULTIPLICATIONS, Grid, ranks, UNEVEN, FEW_CHANNELS), isqrt(ranks)
    for rank, traffic in enumerate(result.traffic):
        forward, backward = cannon(UNEVEN, rank, ranks, FEW_CHANNELS)
        assert traffic["forward", "nbytes"] == 2 * BATCH * ITEM * forward
        assert traffic["backward", "nbytes"] == 2 * BATCH * ITEM * backward
        i, j = divmod(rank, side)
        skews, hops = (i != 0) + (j != 0), 2 * (side - 1)
        assert traffic["forward", "messages"] == 2 * ((i != j) + skews + hops)
        assert traffic["backward", "messages"] == 2 * ((i != j) + 2 * skews + 2 * hops)


@pytest.mark.parametrize("ranks", [2, 4, 9])
def test_volume_of_a_pair_block_is_that_of_the_scheme(ranks):
    """Compare DAP and this project where the ranks divide the tokens."""
    h, others, swap = HEADS / CHANNELS, ranks - 1, (ranks - 1) / ranks
    dap = 2 * others + 4 * swap + 2 * h * others
    assert volumes(WIDE_BLOCK, DAP, ranks) == dict.fromkeys(
        ("forward", "backward"), (pytest.approx(dap), pytest.approx(dap))
    )
    ours = {way: mean for way, (mean, _largest) in volumes(WIDE_BLOCK, RowSlab, ranks).items()}
    expected = 8 * swap + 2 * h * others
    assert ours == {"forward": pytest.approx(expected), "backward": pytest.approx(expected)}


def test_volume_by_cannon_is_that_of_the_scheme_on_the_busiest_rank():
    """On 3 x 3 ranks; on 2 x 2, no rank takes part in the transposition and in both skews."""
    for side, busiest in ((2, (4, 8)), (3, (2 * 3 + 1, 4 * 3 + 1))):
        hops, away = 2 * (side - 1), (side - 1) / side
        measured = volumes(WIDE_MULTIPLICATIONS, Grid, side**2)
        assert measured["forward"] == pytest.approx((2 * (3 * away + hops), 2 * busiest[0]))
        assert measured["backward"] == pytest.approx((2 * (5 * away + 2 * hops), 2 * busiest[1]))


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_gather_of_megafold_loses_a_known_part_of_the_gradient(ranks):
    """The published code has 0.51, 0.58 and 0.62 for 2, 3 and 4 ranks and 12 tokens."""
    make = partial(Contraction, 16)
    expected, result = serial(make, 12, 16), divided(make, MegaFold, ranks, 12, 16)
    torch.testing.assert_close(result.out, expected.out, rtol=1e-12, atol=1e-12)
    lost = 1 - 1 / ranks
    error = relative_error(result.gradient, expected.gradient)
    assert error == pytest.approx((lost / 2) ** 0.5, abs=0.03)
    errors = {
        name: relative_error(result.parameters[name], gradient)
        for name, gradient in expected.parameters.items()
    }
    assert errors["a.weight"] < TOLERANCE
    assert errors["b.weight"] == pytest.approx(lost**0.5, abs=0.1)
    assert all(traffic["backward", "nbytes"] == 0 for traffic in result.traffic)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_pair_block_of_megafold_has_wrong_gradients_and_sends_too_few(ranks):
    result = divided(BLOCK, MegaFold, ranks, UNEVEN, FEW_CHANNELS)
    assert relative_error(result.gradient, ONE[0].gradient) > 0.1
    for rows, traffic in zip(sizes(shares(UNEVEN, ranks)), result.traffic, strict=True):
        swaps = 4 * rows * (UNEVEN - rows) * FEW_CHANNELS
        assert traffic["forward", "nbytes"] == BATCH * ITEM * dap_block(rows, ranks)[0]
        assert traffic["backward", "nbytes"] == BATCH * ITEM * swaps
        assert traffic["backward", "messages"] == 4 * (ranks - 1)


class LeftHopsReversed(Grid):
    """Tiles of the left operand are passed to the right."""

    def _pass_left(self, x, hops, k, direction):
        return super()._pass_left(x, -hops, k, direction)


class UpHopsReversed(Grid):
    """Tiles of the right operand are passed downwards."""

    def _pass_up(self, x, hops, k, direction):
        return super()._pass_up(x, -hops, k, direction)


class LastHopReversed(Grid):
    """Only hops of one rank between two steps are reversed, in one direction of the grid."""

    def _pass_left(self, x, hops, k, direction):
        skew = k == self.row + self.column
        return super()._pass_left(x, hops if skew else -hops, k, direction)


class PartialDropped(Grid):
    """The product of the last step is not added."""

    def _partials(self, left, right, direction):
        return islice(super()._partials(left, right, direction), self.side - 1)


class TileNotExchanged(Grid):
    """The transposition is within tiles."""

    def transposed(self, x, direction):
        return x.transpose(1, 2)


class GradientNotExchanged(Grid):
    """The transposition is within tiles in the backward pass alone."""

    def transposed(self, x, direction):
        return super().transposed(x, direction) if direction == "forward" else x.transpose(1, 2)


def errors(mutant, ranks):
    """Return the relative errors of output and gradient; tiles are of one size."""
    one = serial(MULTIPLICATIONS, 6, FEW_CHANNELS)
    result = divided(MULTIPLICATIONS, mutant, ranks, 6, FEW_CHANNELS)
    return relative_error(result.out, one.out), relative_error(result.gradient, one.gradient)


@pytest.mark.parametrize(
    "mutant", [LeftHopsReversed, UpHopsReversed, LastHopReversed, PartialDropped, TileNotExchanged]
)
def test_mutant_of_cannon_is_wrong_on_nine_ranks(mutant):
    assert min(errors(mutant, 9)) > 0.01


def test_mutant_of_the_backward_pass_of_cannon_has_wrong_gradients():
    out, gradient = errors(GradientNotExchanged, 9)
    assert out < TOLERANCE
    assert gradient > 0.01


@pytest.mark.parametrize("mutant", [LeftHopsReversed, UpHopsReversed, LastHopReversed])
def test_reversed_hop_cannot_be_seen_on_four_ranks(mutant):
    assert max(errors(mutant, 4)) < TOLERANCE


@pytest.mark.parametrize(("ranks", "tokens"), [(6, 9), (9, 2)])
def test_grid_without_square_or_tokens_is_refused(ranks, tokens):
    def program(_rank):
        with pytest.raises(ArgumentError, match=r"no square grid|too few for a grid of side 3"):
            Grid(tokens, GroupExchange(ledger=Ledger()))

    on_ranks(ranks, program)


def test_documented_volumes_are_measured():
    """Mean of the ranks, and the largest if it differs: `support/schemes.py` prints the rows."""
    page = (ROOT / "docs" / "sharding.md").read_text(encoding="utf-8")
    for row in table():
        assert row in page.splitlines(), row
    assert f"N = {TOKENS}, c = {CHANNELS}, {HEADS} heads" in page
