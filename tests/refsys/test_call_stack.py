"""Room on the call stack: calls map no memory, at any depth."""

import io
import resource
import sys
import threading
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
from support import HANG_S

from bench.gate.timing import process as timing_process
from refsys.call_stack import call_with_room

CALLS = 200
DEPTHS = 400


def called(one, two, three):
    return one, two, three


def faults_of_calls(depth):
    """Page faults of `CALLS` calls at a depth of the stack: new memory is new pages."""
    if depth:
        return faults_of_calls(depth - 1)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(CALLS):
        called(1, 2, 3)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def most_faults():
    return max(faults_of_calls(depth) for depth in range(DEPTHS))


def in_thread(function, *arguments):
    """Call a function on a stack of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)))
    thread.start()
    thread.join()
    return results.pop()


def test_calls_with_room_map_no_memory_at_any_depth():
    assert in_thread(call_with_room, most_faults) < CALLS // 4


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the interpreter may keep a chunk")
def test_calls_without_room_map_memory_at_some_depth():
    assert in_thread(most_faults) >= CALLS


def test_arguments_results_and_errors_pass():
    assert call_with_room(called, 1, two=2, three=3) == (1, 2, 3)
    with pytest.raises(ZeroDivisionError):
        call_with_room(lambda: 1 // 0)


def test_both_sides_of_the_timing_gate_have_room():
    """Their process imports nothing of the project but the tree to be measured."""
    context = get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def serve():
        timing_process.Bench = lambda: SimpleNamespace(ask=lambda: sender.send(most_faults()))
        sys.stdin = io.StringIO('{"request": "ask"}\n')
        # On a stack of its own: that of a test has room already.
        in_thread(timing_process.main)

    process = context.Process(target=serve)
    process.start()
    assert receiver.poll(HANG_S)
    assert receiver.recv() < CALLS // 4
    process.join()
    assert process.exitcode == 0
