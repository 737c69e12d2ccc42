"""Scoped values and watchers apply in all threads, including those of autograd."""

from threading import Thread

import torch

from refsys.ops.scope import Scope, Watchers
from refsys.ops.triton_backend import launch_options, use_launch_options
from refsys.ops.workspace import watch, workspace


def in_a_thread(call):
    results = []
    thread = Thread(target=lambda: results.append(call()))
    thread.start()
    thread.join()
    return results[0]


def test_other_threads_see_the_value_in_force():
    scope = Scope(1)
    with scope.using(2), scope.using(3):
        assert in_a_thread(scope.get) == 3
    assert in_a_thread(scope.get) == 1


def test_watchers_can_be_removed_in_any_order():
    watchers, seen = Watchers(), []
    first, second = watchers.added(seen.append), watchers.added(lambda event: seen.append(-event))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    watchers.tell(5)
    second.__exit__(None, None, None)
    watchers.tell(7)
    assert seen == [-5]


def test_launch_options_and_scratch_are_shared_between_threads():
    hollow, seen = torch.empty(4, 16, device="meta"), []
    with use_launch_options({"transition.forward": {"BLOCK_ROWS": 8}}), watch(seen.append):
        assert in_a_thread(lambda: launch_options("transition.forward", hollow)) == {
            "BLOCK_ROWS": 8
        }
        in_a_thread(lambda: workspace("a.b", (4,), dtype=torch.float32, device=hollow.device))
    assert [scratch.nbytes for scratch in seen] == [16]
