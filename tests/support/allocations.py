"""Sizes of allocations on the CPU, including those within operators."""

from contextlib import contextmanager

from torch.profiler import ProfilerActivity, profile


@contextmanager
def allocations():
    """Yield a list that is filled, after the block, with the bytes of each allocating call."""
    sizes = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        yield sizes
    usage = (event.self_cpu_memory_usage for event in profiled.events())
    sizes.extend(size for size in usage if size > 0)
