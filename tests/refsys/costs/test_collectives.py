"""Traced communication equals that of real ranks, and its formulas."""

import shutil
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from support import HANG_S, free_port, gloo_ranks
from support.gloo_ranks import GRADIENT_BYTES, DataParallelStep

from refsys.costs.collectives import CollectiveKey, Communication, sent_bytes
from refsys.costs.prediction import predict
from refsys.errors import ArgumentError

# In a network of its own, whose counters hold what these processes send and nothing else.
ISOLATED = (
    "unshare",
    "--net",
    "sh",
    "-c",
    'ip link set lo up && ISOLATED_NETWORK=1 exec "$@"',
    "sh",
)


@pytest.fixture(scope="module")
def gloo(tmp_path_factory):
    """Return a function that runs real ranks and returns what each of them measured."""

    def run(ranks):
        folder = tmp_path_factory.mktemp("gloo")
        command = (sys.executable, gloo_ranks.__file__, str(ranks), folder, str(free_port()))
        prefixes = ((), ISOLATED) if shutil.which("unshare") else ((),)
        for prefix in reversed(prefixes):
            done = subprocess.run([*prefix, *command], check=False, timeout=HANG_S)
            if done.returncode == 0:
                break
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]

    return run


@pytest.mark.parametrize("ranks", [2, 4])
def test_predicted_communication_equals_what_gloo_ranks_send(gloo, ranks):
    """Calls and payload exactly; bytes on the wire to 3 %, the overhead of TCP and barriers."""
    measured = gloo(ranks)
    predicted_bytes = 0
    for rank, (calls, payload, traced, _) in enumerate(measured):
        predicted = predict(DataParallelStep, ranks=ranks, rank=rank).communication
        assert predicted == traced
        assert {(key.kind, key.ranks) for key in predicted} == {("all_reduce", ranks)}
        assert {key.phase for key in predicted} == {"backward", "all_reduce"}
        assert sum(total.calls for total in predicted.values()) == calls > 2
        assert sum(total.payload_bytes for total in predicted.values()) == payload
        assert payload == GRADIENT_BYTES
        predicted_bytes += sum(total.sent_bytes for total in predicted.values())
    assert predicted_bytes == pytest.approx(2 * GRADIENT_BYTES * (ranks - 1), abs=ranks * calls)
    on_the_wire = measured[0][3]
    if on_the_wire is None:
        pytest.skip("bytes on the wire are not compared: no network namespace can be made here")
    assert on_the_wire == pytest.approx(predicted_bytes, rel=0.03)


class AllCollectives:
    """One call of each kind."""

    phases = ("exchange",)
    forward_phases = ()
    module = None

    def tensors(self):
        return {}

    def run(self, phase):
        ranks, rank = dist.get_world_size(), dist.get_rank()
        part, whole = torch.zeros(10), torch.zeros(10 * ranks)
        dist.all_reduce(part)
        dist.all_gather_into_tensor(whole, part)
        dist.all_gather(list(whole.chunk(ranks)), part)
        dist.reduce_scatter_tensor(part, whole)
        dist.all_to_all_single(torch.empty_like(whole), whole)
        dist.broadcast(part, src=0)
        dist.reduce(part, dst=0)
        exchange = [
            dist.P2POp(dist.isend, part, (rank + 1) % ranks),
            dist.P2POp(dist.irecv, torch.empty(10), (rank - 1) % ranks),
        ]
        for work in dist.batch_isend_irecv(exchange):
            work.wait()
        dist.barrier()
        group = dist.new_group(list(range(2)))
        if rank < 2:
            dist.all_reduce(part, group=group)


@pytest.mark.parametrize("ranks", [2, 3, 1024])
def test_kinds_and_bytes_follow_the_documented_formulas(ranks):
    communication = predict(AllCollectives, ranks=ranks, rank=1).communication
    n, total = 40, 40 * ranks

    def key(kind, size=ranks):
        return CollectiveKey("exchange", kind, size)

    expected = {
        key("all_reduce"): Communication(1, n, -(-2 * n * (ranks - 1) // ranks)),
        key("all_gather"): Communication(2, 2 * n, 2 * n * (ranks - 1)),
        key("reduce_scatter"): Communication(1, total, n * (ranks - 1)),
        key("all_to_all"): Communication(1, total, n * (ranks - 1)),
        key("broadcast"): Communication(1, n, n),
        key("reduce"): Communication(1, n, n),
        key("send"): Communication(1, n, n),
        key("receive"): Communication(1, 0, 0),
        key("barrier"): Communication(1, 0, 0),
    }
    pair = key("all_reduce", 2)
    subgroup = Communication(1, n, n)
    if ranks == 2:
        expected[pair].calls += 1
        expected[pair].payload_bytes += n
        expected[pair].sent_bytes += n
    else:
        expected[pair] = subgroup
    assert communication == expected


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "broadcast", "send", "scatter"])
def test_single_rank_sends_nothing(kind):
    assert sent_bytes(kind, 1000, 1) == 0


@pytest.mark.parametrize("rank", [-1, 2])
def test_rank_outside_of_the_world_is_refused(rank):
    with pytest.raises(ArgumentError, match=rf"rank={rank} is not one of 2 ranks"):
        predict(AllCollectives, ranks=2, rank=rank)
    assert not dist.is_initialized()


def test_process_group_is_gone_after_a_prediction_that_fails():
    def build():
        raise RuntimeError("cannot be built")

    with pytest.raises(RuntimeError, match="cannot be built"):
        predict(build, ranks=4)
    assert not dist.is_initialized()
