"""Link model: limits of large messages, latency, and ranks of a node."""

from dataclasses import replace
from itertools import pairwise, product

import pytest
from support.synthetic_traces import FAST, MACHINE, SLOW, exchange, step

from refsys.costs.achievable import assumed
from refsys.costs.collectives import Communication
from refsys.costs.devices import named_link
from refsys.costs.links import Network, algorithm_messages, transfer_time
from refsys.costs.time_model import predict_time
from refsys.errors import ArgumentError

KINDS = (
    *("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "reduce"),
    *("gather", "scatter", "send"),
)
LARGE = 10**12
MESH = replace(FAST, peers=7)
LINKS = {"switched": (FAST, SLOW), "mesh": (MESH, SLOW)} | {
    name: (named_link(name), named_link("infiniband-hdr"))
    for name in ("nvlink-3", "nvlink-5", "xgmi-mi250", "xgmi-mi300x", "xgmi-mi355x", "pcie-4")
}


def seconds(kind, ranks, nbytes=LARGE, calls=1, inside=FAST, across=SLOW, **options):
    network = Network(**{"ranks_per_node": 8, "inside": inside, "across": across} | options)
    return transfer_time(kind, ranks, Communication(calls, nbytes, nbytes), network).seconds


@pytest.mark.parametrize("kind", KINDS)
def test_large_transfer_inside_a_node_is_limited_by_the_bandwidth(kind):
    assert seconds(kind, 8) == pytest.approx(LARGE / FAST.bytes_s, rel=1e-3)
    assert seconds(kind, 8, share=0.5) == pytest.approx(2 * LARGE / FAST.bytes_s, rel=1e-3)


def test_large_exchange_across_nodes_is_limited_by_the_network():
    assert seconds("all_to_all", 1024) == pytest.approx(LARGE / SLOW.bytes_s, rel=0.02)
    assert seconds("all_to_all", 16, ranks_per_node=1) == pytest.approx(
        LARGE / SLOW.bytes_s, rel=1e-3
    )


def test_ring_leaves_a_node_through_all_of_its_ports():
    assert seconds("all_gather", 16) == pytest.approx(LARGE / (8 * SLOW.bytes_s), rel=1e-3)
    assert seconds("all_gather", 16, across=FAST) == pytest.approx(LARGE / FAST.bytes_s, rel=1e-3)


def test_stages_of_a_hierarchical_exchange_use_one_link_each():
    inside, across = (seconds(f"all_to_all_{stage}", 16) for stage in ("inside", "across"))
    assert inside == pytest.approx(LARGE / FAST.bytes_s, rel=1e-3)
    assert across == pytest.approx(LARGE / SLOW.bytes_s, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_transfer_takes_the_latency_of_its_messages(kind):
    steps = algorithm_messages(kind, 8)
    expected = 10 * (steps * FAST.latency_s + 1e-5)
    assert seconds(kind, 8, 0, calls=10, start_s=1e-5) == pytest.approx(expected)


def test_counted_messages_replace_those_of_the_algorithm():
    total = Communication(calls=2, payload_bytes=0, sent_bytes=0, messages=50)
    network = Network(ranks_per_node=8, inside=FAST, across=SLOW)
    assert transfer_time("all_to_all", 8, total, network).seconds == 50 * FAST.latency_s


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_more_ranks_on_a_node_are_never_slower(links):
    inside, across = links
    for kind, nbytes, ranks in product(KINDS, (0, 10**6, LARGE), (4, 32)):
        times = [
            seconds(kind, ranks, nbytes, inside=inside, across=across, ranks_per_node=count)
            for count in range(1, inside.devices + 1)
        ]
        for fewer, more in pairwise(times):
            assert more <= fewer * (1 + 1e-12), (kind, nbytes, ranks)


@pytest.mark.parametrize("kind", KINDS)
def test_faster_links_are_never_slower(kind):
    usual = seconds(kind, 16, 10**8, 10)
    for change in ({"bytes_s": 1e12}, {"latency_s": 1e-7}):
        assert seconds(kind, 16, 10**8, 10, inside=replace(FAST, **change)) <= usual
        assert seconds(kind, 16, 10**8, 10, across=replace(SLOW, **change)) <= usual


def test_pairs_of_a_mesh_share_no_wires():
    assert seconds("all_to_all", 8, inside=MESH) == pytest.approx(LARGE / FAST.bytes_s, rel=1e-3)
    assert seconds("all_to_all", 2, inside=MESH) == pytest.approx(
        7 * LARGE / FAST.bytes_s, rel=1e-3
    )


def test_one_rank_communicates_with_nobody():
    assert seconds("all_reduce", 1) == 0


def test_node_without_ranks_is_refused():
    with pytest.raises(ArgumentError, match="ranks_per_node=0"):
        Network(ranks_per_node=0)


def test_chunks_of_an_exchange_hide_it_behind_computation():
    def phase(chunks):
        options = {"link": FAST, "inter_link": SLOW, "ranks_per_node": 8}
        trace = step(exchange())
        return predict_time(trace, MACHINE, exchange_chunks=chunks, **options).phases["forward"]

    whole = phase(1)
    assert whole.hidden_s == 0
    total = whole.communication_s
    for chunks in (2, 4):
        assert phase(chunks).communication_s == pytest.approx(
            max(total / chunks, total - whole.device_s)
        )


def test_gradients_hide_behind_backward_as_far_as_it_reaches():
    options = {"link": FAST, "inter_link": SLOW, "ranks_per_node": 8}
    trace = step(exchange("all_reduce", operator="gradients"))
    phase = predict_time(trace, MACHINE, **options).phases["forward"]
    share = assumed().parameters_overlap
    total = phase.communication_s + phase.hidden_s
    assert phase.hidden_s == pytest.approx(min(share * total, phase.device_s))
    alone = replace(trace, costs={})
    assert predict_time(alone, MACHINE, **options).phases["forward"].hidden_s == 0
