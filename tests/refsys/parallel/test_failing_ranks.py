"""A rank that is missing or differs ends all ranks with one error that names it."""

import json
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from support import HANG_S

from bench.run.isolation import Ended
from bench.run.time_limits import TimeLimit
from bench.run.verdict import verdict
from refsys.parallel import monitor
from refsys.parallel.agreement import difference
from refsys.parallel.ledger import TrafficKey

SCRIPT = str(Path(__file__).resolve().parents[2] / "support" / "failing_ranks.py")
FORWARD = "all_to_all of triangle_multiplication (forward, phase forward) failed after "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Errors of each rank in each case, see `failing_ranks.py`."""
    path = tmp_path_factory.mktemp("failing")
    subprocess.run([sys.executable, SCRIPT, str(path)], check=True, timeout=HANG_S)
    return path


def error_of_all_ranks(folder, case, ranks=(0, 1, 2)):
    """Return the kind and the message of the error, which is the same on the given ranks."""
    read = [json.loads((folder / f"{case}.{r}").read_text(encoding="utf-8")) for r in ranks]
    errors = {(kind, message) for kind, _seconds, message in read}
    assert len(errors) == 1, errors
    return errors.pop()


def test_killed_rank_is_named_with_operator_phase_and_flight_recorder(folder):
    kind, message = error_of_all_ranks(folder, "killed", ranks=(0, 2))
    assert kind == "RankError"
    assert message.startswith(FORWARD)
    assert " s: rank 1 is missing, without a sign of life; " in message
    dump = Path(message.rpartition("flight recorder: ")[2])
    assert dump.parent == folder
    entries = pickle.loads(dump.read_bytes())["entries"]
    assert entries[-1]["profiling_name"] == "gloo:all_to_all"


def test_hanging_rank_is_named_with_its_position_and_is_ended(folder):
    kind, message = error_of_all_ranks(folder, "hung", ranks=(0, 2))
    assert kind == "RankError"
    assert message.startswith(FORWARD)
    assert "rank 1 is missing: rank 1 is in phase forward, last began all_to_all of " in message
    status = json.loads((folder / "statuses").read_text(encoding="utf-8"))["hung"]["1"]
    assert status == 1 << 8
    assert not (folder / "hung.1").exists()


def test_error_of_a_rank_is_the_error_of_the_others(folder):
    kind, message = error_of_all_ranks(folder, "error", ranks=(0, 2))
    assert kind == "RankError"
    assert message == "rank 1 failed: entries/1abc: its checksum differs"
    assert error_of_all_ranks(folder, "error", ranks=(1,))[0] == "DataError"


@pytest.mark.parametrize(
    ("case", "difference"),
    [
        ("tokens", "the batch: axis token differs between ranks: 7 on ranks 0 and 2, 8 on rank 1"),
        ("dtype", "precision differs between ranks: float32 on ranks 0 and 2, bfloat16 on rank 1"),
        ("configuration", "preset differs between ranks: tiny on ranks 0 and 2, mini on rank 1"),
    ],
)
def test_difference_between_ranks_is_named_on_each(folder, case, difference):
    kind, message = error_of_all_ranks(folder, case)
    assert kind == "ArgumentError"
    assert message.endswith(difference)


def test_rank_that_never_joins_is_named(folder):
    message = "joining the run: rank 1 is missing: 2 of 3 ranks arrived within 5 s"
    assert error_of_all_ranks(folder, "absent", ranks=(0, 2)) == ("RankError", message)


def test_missing_holder_of_the_store_is_named(folder):
    kind, message = error_of_all_ranks(folder, "no_store", ranks=(1, 2))
    assert kind == "RankError"
    assert message.startswith("rank 0 is missing: it did not open the store of the run at ")


def test_record_of_a_sweep_names_the_killed_rank(folder):
    ended = Ended(1, None, 1.0, 0, "")
    paths = [folder / f"result.{rank}" for rank in (0, 1)]
    result = verdict(ended, paths, TimeLimit(20.0, None), 2**30, ["a", "b"])
    assert result.status == "crash"
    assert result.reason.startswith("rank 0: RankError: all_to_all of ")
    assert "(backward, phase backward)" in result.reason
    assert "rank 1 is missing, without a sign of life" in result.reason


def test_difference_lists_values_that_a_rank_lacks():
    assert difference({0: {"a": "1"}, 1: {"a": "1"}}) == ""
    text = difference({0: {"a": "1", "b": "2"}, 1: {"a": "1"}, 2: {"a": "1"}})
    assert text == "b differs between ranks: 2 on rank 0, nothing on ranks 1 and 2"


def test_operation_queued_for_too_long_ends_the_process():
    """The host of an accelerator is blocked elsewhere: the thread of the monitor acts."""
    ended, key = [], TrafficKey("triangle_attention", "backward", "backward", "all_to_all")
    watched = SimpleNamespace(
        timeout_s=10.0,
        _queued=[],
        _end=ended.append,
        failure=lambda operation, error: f"{operation.key.operator} {error}",
    )

    def queue(done, begun):
        work = SimpleNamespace(is_completed=lambda: done)
        watched._queued.append((work, monitor.Operation(key, None, 1, begun)))

    queue(True, 0.0)
    queue(False, float("inf"))
    watched._queued = monitor.deque(watched._queued)
    monitor.RankMonitor._check_queued(watched)
    assert not ended
    assert len(watched._queued) == 1, "the complete one is dropped"
    watched._queued.clear()
    queue(False, 0.0)
    watched.timeout_s = -1e9
    monitor.RankMonitor._check_queued(watched)
    assert ended == ["triangle_attention None"]


@pytest.fixture
def third(monkeypatch):
    """Monitor of rank 2 of 3 without a thread; rank 0 claimed the failure and explained it."""
    store = dist.HashStore()
    for key, value in {"claim": "0", "answer/0": "{}", "verdict": "rank 1 is missing"}.items():
        store.set(key, value)
    monkeypatch.setattr(monitor.flight_recorder, "dump", lambda rank, backend: None)
    watcher = monitor.RankMonitor.__new__(monitor.RankMonitor)
    watcher.rank, watcher.ranks, watcher.timeout_s, watcher.verdict = 2, 3, 0.05, ""
    watcher.world, watcher._store, watcher._backend, watcher._holder = None, store, "gloo", "rank 0"
    watcher._begun, watcher._last, watcher._queued = monitor.Counter(), None, monitor.deque()
    watcher._ledger = SimpleNamespace(phase="")
    watcher._settling, watcher._stop = threading.Lock(), threading.Event()
    watcher.ended = []
    watcher._end = lambda reason: (watcher.ended.append(reason), watcher._stop.set())
    return watcher


def test_rank_says_itself_that_it_has_read_the_verdict(third):
    """Its process may end before its thread says so, and the holder of the store would wait."""
    third._store.set("read/0", "")
    third.report(ValueError("wrong"))
    assert third.verdict == "rank 1 is missing"
    assert third._store.check(["read/2"])


def test_verdict_that_the_thread_has_read_outlasts_the_store(third):
    class Gone:
        def compare_set(self, *_):
            third.verdict = "rank 1 is missing"
            self.set()

        def set(self, *_):
            raise dist.DistNetworkError("closed")

    third._store = Gone()
    third.report(ValueError("wrong"))
    assert third.verdict == "rank 1 is missing"


def test_rank_that_waits_for_readers_is_not_ended(third, monkeypatch):
    monkeypatch.setattr(monitor, "POLL_S", 0.01)
    thread = threading.Thread(target=third._watch)
    with third._settling:
        thread.start()
        time.sleep(6 * third.timeout_s)
        assert third.verdict
        assert not third.ended
    thread.join(HANG_S)
    assert third.ended == ["rank 1 is missing"]
