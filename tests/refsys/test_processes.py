"""Pools of processes: whole before the first task runs, and never waited for in vain."""

import os
import signal
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from threading import Thread

import pytest
from support import HANG_S

from refsys.processes import ProcessPool


def test_all_processes_are_started_with_the_first_task():
    before = set(active_children())
    with ProcessPool(3) as pool:
        future = pool.submit(os.getpid)
        assert len(set(active_children()) - before) == 3
        assert future.result(HANG_S) in {process.pid for process in active_children()}


def test_a_process_that_dies_while_others_start_breaks_the_pool_and_nothing_waits():
    def kill_the_first():
        while not (new := set(active_children()) - before):
            pass
        os.kill(min(process.pid for process in new), signal.SIGKILL)

    for _ in range(3):
        before = set(active_children())
        killer = Thread(target=kill_the_first)
        killer.start()
        pool = ProcessPool(2)
        futures = [pool.submit(os.getpid)]
        killer.join()
        assert not wait(futures, HANG_S).not_done
        pool.shutdown(wait=True)
        assert set(active_children()) <= before
        with pytest.raises((BrokenProcessPool, RuntimeError)):
            pool.submit(os.getpid)
