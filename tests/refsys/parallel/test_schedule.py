"""Choice of a schedule: its laws, and the closed forms of its times."""

from dataclasses import replace

import pytest
from support.documents import ROOT

from refsys.errors import ArgumentError
from refsys.parallel.channel_groups import BlockGrid
from refsys.parallel.links import NVLINK, PCIE, Links
from refsys.parallel.schedule import (
    H100,
    HIERARCHICAL,
    PLAIN,
    SERIAL,
    PairShape,
    Rates,
    break_even_tokens,
    choose,
    grids,
)

# Computation takes no time, and messages no latency.
FREE = Rates(1e300, 1e300, 0.0)
BYTES = Links(1.0, 0.0, 1.0, 0.0)
MESSAGES = Links(1e300, 1.0, 1e300, 100.0)


def named(schedule):
    return {candidate.name: candidate for candidate in schedule.candidates}


@pytest.mark.parametrize("ranks", [2, 4, 16, 64])
def test_bytes_of_plain_exchanges_are_those_of_the_row_slab(ranks):
    """8 U (P − 1)/P + 2 h (P − 1) U forward, and three times in training."""
    tokens, shape = 4 * ranks, PairShape()
    unit = tokens**2 * shape.channels * shape.itemsize / ranks
    expected = 8 * unit * (ranks - 1) / ranks + 2 * (ranks - 1) * unit / 32
    for training, passes in ((False, 1), (True, 3)):
        schedule = choose(tokens, ranks, ranks, BYTES, rates=FREE, training=training)
        plain = named(schedule)[PLAIN]
        assert plain.communication_s == pytest.approx(passes * expected)


@pytest.mark.parametrize(("ranks", "grid"), [(256, (1, 2)), (512, (2, 2)), (1024, (2, 4))])
def test_bytes_of_channel_groups_are_those_of_their_formula(ranks, grid):
    grid = BlockGrid(*grid)
    unit = ranks**2 * 128 * 2 / ranks
    schedule = choose(ranks, ranks, ranks, BYTES, rates=FREE)
    candidates = {c.grid: c.communication_s for c in schedule.candidates if c.exchange == PLAIN}
    kept = (ranks - 1) / ranks
    bias = 2 * (ranks - 1) * unit / 32
    assert candidates[grid] == pytest.approx((2 * sum(grid) + 4) * unit * kept + bias)
    # A rank that has one of the channels receives both of its operands, and sends its result.
    idle = (2 * 2 * ranks / 128 + 2 * ranks / 128 + 2) * unit * kept + bias
    assert candidates[BlockGrid()] == pytest.approx(idle)


def test_hierarchical_exchanges_send_fewer_messages_and_more_bytes():
    ranks, node = 64, 8
    by_messages = named(choose(640, ranks, node, MESSAGES, rates=FREE))
    # Six exchanges in two stages, and the biases directly.
    direct = 7 + 56 * 100
    assert by_messages[PLAIN].communication_s == pytest.approx(8 * direct)
    assert by_messages[HIERARCHICAL].communication_s == pytest.approx(
        6 * (7 + 7 * 100) + 2 * direct
    )
    by_bytes = named(choose(640, ranks, node, BYTES, rates=FREE))
    assert by_bytes[HIERARCHICAL].communication_s > by_bytes[PLAIN].communication_s


def test_hierarchical_exchange_is_chosen_where_latency_decides_and_plain_where_bytes_do():
    slow = replace(NVLINK, inter_latency_s=1e-3)
    few, many = (choose(n, 64, 8, links).divided for n, links in ((640, slow), (30_720, NVLINK)))
    assert few.exchange == HIERARCHICAL
    even = Links(50e9, 5e-6, 50e9, 5e-6)
    assert choose(30_720, 64, 8, even).divided.exchange == PLAIN
    assert many.seconds <= named(choose(30_720, 64, 8))[PLAIN].seconds


@pytest.mark.parametrize(("ranks", "node"), [(8, 8), (8, 1), (8, 3)])
def test_hierarchical_exchange_needs_several_whole_nodes(ranks, node):
    assert {c.exchange for c in choose(64, ranks, node).candidates} == {SERIAL, PLAIN}


def test_candidates_are_sorted_and_the_reason_names_the_two_fastest():
    schedule = choose(4096, 256, 8)
    seconds = [candidate.seconds for candidate in schedule.candidates]
    assert seconds == sorted(seconds)
    assert schedule.best is schedule.candidates[0]
    assert schedule.best.name in schedule.reason
    assert schedule.candidates[1].name in schedule.reason


def test_groups_are_candidates_with_more_ranks_than_channels_alone():
    assert grids(128, 128) == (BlockGrid(1, 1),)
    assert grids(256, 128)[:3] == (BlockGrid(1, 1), BlockGrid(1, 2), BlockGrid(2, 2))
    assert all(256 % grid.groups == 0 for grid in grids(256, 128))
    assert choose(30_720, 256, 8).divided.grid == BlockGrid(1, 2)
    assert choose(30_720, 1024, 8).divided.grid.groups >= 8


def test_one_rank_is_faster_below_the_break_even_length_and_slower_above():
    for links in (NVLINK, PCIE):
        tokens = break_even_tokens(4, 4, links)
        assert choose(tokens, 4, 4, links).best.exchange != SERIAL
        assert choose(tokens - 1, 4, 4, links).best.exchange == SERIAL
    assert break_even_tokens(4, 4, PCIE) > break_even_tokens(4, 4, NVLINK)


def test_break_even_length_grows_with_latency_and_falls_with_bandwidth():
    slower = replace(PCIE, intra_latency_s=10 * PCIE.intra_latency_s)
    faster = replace(PCIE, intra_bytes_s=10 * PCIE.intra_bytes_s)
    base = break_even_tokens(4, 4, PCIE)
    assert break_even_tokens(4, 4, slower) > base > break_even_tokens(4, 4, faster)


def test_ranks_that_never_pay_have_no_break_even_length():
    assert break_even_tokens(2, 2, replace(PCIE, intra_latency_s=1e9)) is None


@pytest.mark.parametrize(
    ("tokens", "ranks", "node", "message"),
    [
        (64, 1, 1, "nothing to divide among"),
        (64, 4, 0, "nothing to divide among"),
        (3, 4, 4, "3 tokens are too few for 4 ranks"),
    ],
)
def test_impossible_numbers_are_refused(tokens, ranks, node, message):
    with pytest.raises(ArgumentError, match=message):
        choose(tokens, ranks, node)


def measurements(latency, bytes_s, ranks, sizes):
    def seconds(size):
        return latency * (ranks - 1) + size * (ranks - 1) / ranks / bytes_s

    return [{"operation": "all_to_all", "bytes": n, "seconds": seconds(n)} for n in sizes]


def test_measured_links_are_those_that_made_the_measurements():
    inside = measurements(3e-6, 200e9, 4, (2**20, 2**26))
    across = measurements(9e-6, 20e9, 2, (2**20, 2**23, 2**26))
    links = Links.measured(inside, 4, across, 2)
    expected = Links(200e9, 3e-6, 20e9, 9e-6)
    for name in Links.__slots__:
        assert getattr(links, name) == pytest.approx(getattr(expected, name), rel=1e-6)
    alone = Links.measured(inside, 4)
    assert (alone.inter_bytes_s, alone.inter_latency_s) == (
        alone.intra_bytes_s,
        alone.intra_latency_s,
    )


def test_one_size_gives_the_bandwidth_alone():
    links = Links.measured(measurements(0.0, 10e9, 2, (2**20,)), 2)
    assert links.intra_bytes_s == pytest.approx(10e9)
    assert links.intra_latency_s == 0


def test_links_without_measurements_or_bandwidth_are_refused():
    with pytest.raises(ArgumentError, match="no all-to-all was measured"):
        Links.measured([{"operation": "all_reduce", "bytes": 1, "seconds": 1.0}], 2)
    with pytest.raises(ArgumentError, match="1 ranks have no link"):
        Links.measured(measurements(0.0, 1.0, 2, (1,)), 1)
    with pytest.raises(ArgumentError, match="is not a bandwidth"):
        Links(0, 0, 1, 0)
    with pytest.raises(ArgumentError, match="is not a latency"):
        Links(1, -1, 1, 0)


def rounded(milliseconds):
    """Return three digits, or all before the decimal point if they are more."""
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"


def test_documented_predictions_are_those_of_the_model():
    page = (ROOT / "docs" / "sharding.md").read_text(encoding="utf-8")
    lengths = (384, 16), (3072, 32), (4096, 64), *((30_720, ranks) for ranks in (64, 256, 1024))
    for tokens, ranks in lengths:
        best, other = choose(tokens, ranks, 8).candidates[:2]
        cells = [
            f"{candidate.name} | {rounded(candidate.seconds * 1e3)}" for candidate in (best, other)
        ]
        assert f"| {tokens:,} | {ranks:,} | {' | '.join(cells)} |" in page.splitlines()
    a100 = Rates(312e12, 2.039e12, H100.launch_s)
    for tokens in (
        break_even_tokens(4, 4),
        break_even_tokens(4, 4, PCIE),
        break_even_tokens(4, 4, PCIE, rates=a100),
    ):
        assert f"below {tokens:,} on " in page or f"below {tokens:,} tokens on " in page


def test_default_rates_and_links_are_positive():
    assert min(H100.flops_s, H100.bytes_s, H100.launch_s) > 0
