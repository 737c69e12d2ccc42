"""Live storages: how many bytes are alive at each moment, and whose they are at the peak."""

import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class _Storage:
    nbytes: int
    state: str
    module: str
    operator: str


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which most bytes were alive.

    Attributes:
        nbytes: How many.
        by_state: The same by state.
        by_origin: The same by (state, module path, operator) that allocated them.
    """

    nbytes: int
    by_state: dict[str, int]
    by_origin: dict[tuple[str, str, str], int]


class LiveStorages:
    """Notes each storage when it is first seen and when it dies.

    What a storage is may only be known later (a gradient, an activation that outlives forward), so
    births and deaths are logged and the peak's composition is read off at the end.
    """

    def __init__(self) -> None:
        self.live_bytes = 0
        self._storages: list[_Storage] = []
        self._alive: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        self._log: list[int] = []
        self._peaks: dict[str, tuple[int, int]] = {}
        self._phase = ""

    def enter_phase(self, phase: str) -> None:
        """Peaks from here on are also kept by phase."""
        self._phase = phase
        self._measure()

    def add(self, tensor: Tensor, state: str, module: str = "", operator: str = "") -> bool:
        """Notes a tensor's storage; False if it was alive already."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._alive:
            return False
        number = len(self._storages)
        self._storages.append(_Storage(storage.nbytes(), state, module, operator))
        self._alive[key] = number, weakref.ref(storage, lambda _: self._died(key))
        self._born(number)
        return True

    def begin_scratch(self, nbytes: int, name: str, module: str) -> int:
        """Notes scratch memory inside an operator; `end_scratch` takes what this returns."""
        number = len(self._storages)
        self._storages.append(_Storage(nbytes, "workspace", module, name))
        self._born(number)
        return number

    def end_scratch(self, number: int) -> None:
        """The operator that held the scratch memory is done."""
        self._end(number)

    def assign(self, tensors: Iterable[Tensor], state: str) -> None:
        """Says what the storages of these tensors are, whenever they were first seen."""
        for tensor in tensors:
            entry = self._alive.get(id(tensor.untyped_storage()))
            if entry:
                self._storages[entry[0]].state = state

    def reassign_alive(self, old: str, new: str) -> None:
        """Turns every living storage of state `old` into `new`."""
        for number, _ in self._alive.values():
            if self._storages[number].state == old:
                self._storages[number].state = new

    def rename(self, old: str, new: str) -> None:
        """Turns every storage of state `old`, dead ones too, into `new`."""
        for storage in self._storages:
            if storage.state == old:
                storage.state = new

    def peak(self, phase: str | None = None) -> Peak:
        """The peak of a phase, or of the whole trace."""
        found = [self._peaks[phase]] if phase else list(self._peaks.values())
        nbytes, moment = max(found, default=(0, 0))
        alive: set[int] = set()
        for event in self._log[:moment]:
            if event > 0:
                alive.add(event - 1)
            else:
                alive.discard(-event - 1)
        by_state: Counter[str] = Counter()
        by_origin: Counter[tuple[str, str, str]] = Counter()
        for number in alive:
            storage = self._storages[number]
            by_state[storage.state] += storage.nbytes
            by_origin[storage.state, storage.module, storage.operator] += storage.nbytes
        return Peak(nbytes, dict(by_state), dict(by_origin))

    def _born(self, number: int) -> None:
        self._log.append(number + 1)
        self.live_bytes += self._storages[number].nbytes
        self._measure()

    def _died(self, key: int) -> None:
        number, _ = self._alive.pop(key)
        self._end(number)

    def _end(self, number: int) -> None:
        self._log.append(-number - 1)
        self.live_bytes -= self._storages[number].nbytes

    def _measure(self) -> None:
        if self.live_bytes > self._peaks.get(self._phase, (-1, 0))[0]:
            self._peaks[self._phase] = self.live_bytes, len(self._log)
