"""Process pools start completely with the first task and do not hang on a dead process."""

import os
import signal
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children
from threading import Thread

import pytest
from support import HANG_S

from refsys.processes import ProcessPool


def test_pool_starts_all_processes_with_the_first_task():
    before = set(active_children())
    with ProcessPool(3) as pool:
        future = pool.submit(os.getpid)
        assert len(set(active_children()) - before) == 3
        assert future.result(HANG_S) in {process.pid for process in active_children()}


def test_pool_breaks_without_hanging_when_a_process_dies_during_start():
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
