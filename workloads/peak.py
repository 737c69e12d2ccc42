"""The most bytes alive at once in a step, by a mode that follows nothing else.

For choosing sizes before anything is measured. What `bench.simulation` says of a step, whose parts
it tells apart, is the same number.
"""

import gc
import weakref
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refsys.ops.rounds import shortened
from refsys.ops.workspace import Scratch, watch
from workloads.workload import C, Workload

# Bookkeeping of fake tensors, which makes none.
_IGNORED_NAMESPACES = frozenset({"prim", "profiler"})


def predicted_peak_bytes(workload: Workload[C], config: C) -> int:
    """The most bytes alive at once in a step of a case, traced with shapes alone."""
    with FakeTensorMode(), shortened():
        program = workload.build_abstract(config)
        live = _LiveBytes()
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()
        try:
            with watch(live.on_scratch), live:
                for tensors in program.tensors().values():
                    for tensor in tensors:
                        live.add(tensor)
                for phase in program.phases:
                    program.run(phase)
        finally:
            if collecting:
                gc.enable()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Notes storages when they are first seen and when they die.

    Attributes:
        peak: Most bytes alive at once so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._live = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._depth = 0
        self._scratch = 0

    def add(self, tensor: Tensor) -> None:
        """Notes a tensor's storage, if it is a new one."""
        storage = tensor.untyped_storage()
        key, nbytes = id(storage), storage.nbytes()
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, lambda _: self._died(key, nbytes))
            self._grow(nbytes)

    def on_scratch(self, scratch: Scratch) -> None:
        """Scratch inside an operator lives until that ends; elsewhere it is seen as a tensor."""
        if self._depth:
            self._scratch += scratch.nbytes
            self._grow(scratch.nbytes)

    def _grow(self, nbytes: int) -> None:
        self._live += nbytes
        self.peak = max(self.peak, self._live)

    def _died(self, key: int, nbytes: int) -> None:
        del self._alive[key]
        self._live -= nbytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace in _IGNORED_NAMESPACES:
            return func(*args, **(kwargs or {}))
        outer, self._scratch, self._depth = self._scratch, 0, self._depth + 1
        try:
            out = func(*args, **(kwargs or {}))
        finally:
            self._live -= self._scratch
            self._scratch, self._depth = outer, self._depth - 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return out
