"""Several ranks as threads of one process, over torch's threaded process group."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import multi_threaded_pg

T = TypeVar("T")


def on_ranks(count: int, program: Callable[[int], T]) -> list[T]:
    """Return what `program` returns on each rank; the first error of a rank is raised."""
    results: list[Any] = [None] * count
    errors: list[BaseException] = []
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    multi_threaded_pg._install_threaded_pg()
    multi_threaded_pg.ProcessLocalGroup.reset()
    store = dist.HashStore()

    def run(rank: int) -> None:
        try:
            dist.init_process_group("threaded", rank=rank, world_size=count, store=store)
            results[rank] = program(rank)
        except BaseException as error:
            # The other ranks end with SystemExit once one has failed.
            if not isinstance(error, SystemExit):
                errors.append(error)
            multi_threaded_pg.ProcessLocalGroup.exception_handle(error)
        finally:
            if dist.is_initialized() and not errors:
                dist.destroy_process_group()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    multi_threaded_pg._uninstall_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(False)
    if errors:
        raise errors[0]
    return results
