"""Live storages: bytes alive at each moment of a trace, and their origin at the peak."""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

# State of storages in host memory, which are in no peak of the device.
ON_HOST = "offloaded"
# Operators that allocate buffers whose storages may be resized later.
_OF_BUFFERS = frozenset({"aten.empty.memory_format"})


@dataclass(slots=True)
class Storage:
    """One allocation.

    Attributes:
        nbytes: Size.
        state: Use, such as ``parameters`` or ``activations``.
        module: Path of the module that allocated it.
        operator: Operator that allocated it.
    """

    nbytes: int
    state: str
    module: str
    operator: str


@dataclass(frozen=True, slots=True)
class Peak:
    """The moment at which most bytes were alive.

    Attributes:
        nbytes: Bytes alive.
        by_state: The same by state.
        by_origin: The same by (state, module path, operator) that allocated them.
    """

    nbytes: int
    by_state: dict[str, int]
    by_origin: dict[tuple[str, str, str], int]


@dataclass(slots=True)
class Timeline:
    """Allocations and releases of a trace, in order.

    Attributes:
        storages: Every allocation.
        events: n + 1 where storage n is allocated, -(n + 1) where it is released.
        phases: Number of events before the start of each phase, with the phase's name.
    """

    storages: list[Storage]
    events: list[int]
    phases: list[tuple[int, str]]

    def peak(self, phase: str | None = None) -> Peak:
        """Return the peak of a phase, or of the whole timeline if it is None."""
        peaks = self._peaks()
        candidates = [peaks[phase]] if phase is not None else list(peaks.values())
        nbytes, moment = max(candidates, default=(0, 0))
        alive: set[int] = set()
        for event in self.events[:moment]:
            if event > 0:
                alive.add(event - 1)
            else:
                alive.discard(-event - 1)
        by_state: Counter[str] = Counter()
        by_origin: Counter[tuple[str, str, str]] = Counter()
        for number in alive:
            storage = self.storages[number]
            if storage.state == ON_HOST:
                continue
            by_state[storage.state] += storage.nbytes
            by_origin[storage.state, storage.module, storage.operator] += storage.nbytes
        return Peak(nbytes, dict(by_state), dict(by_origin))

    def host_bytes(self) -> int:
        """Return the most bytes that were in host memory at once."""
        live = most = 0
        for event in self.events:
            storage = self.storages[abs(event) - 1]
            if storage.state == ON_HOST:
                live += storage.nbytes if event > 0 else -storage.nbytes
                most = max(most, live)
        return most

    def _peaks(self) -> dict[str, tuple[int, int]]:
        """Return most bytes alive by phase, and the number of events until then."""
        peaks: dict[str, tuple[int, int]] = {}
        live = 0
        starts = [*self.phases, (len(self.events), "")]
        for (start, phase), (end, _) in pairwise(starts):
            largest = peaks.get(phase, (-1, 0))
            if live > largest[0]:
                largest = live, start
            for moment in range(start, end):
                event = self.events[moment]
                storage = self.storages[abs(event) - 1]
                if storage.state == ON_HOST:
                    continue
                if event < 0:
                    live -= storage.nbytes
                    continue
                live += storage.nbytes
                if live > largest[0]:
                    largest = live, moment + 1
            peaks[phase] = largest
        return peaks


class LiveStorages:
    """Record each storage when it is first seen and when it is released.

    The use of a storage may only be known later (a gradient, an activation that outlives forward),
    so that events are logged, and the composition of a peak is read off at the end.

    Attributes:
        live_bytes: Bytes alive now.
        before_event: Function called before each allocation and release is logged.
    """

    def __init__(self) -> None:
        self.live_bytes = 0
        self.before_event: Callable[[], None] = _nothing
        self._storages: list[Storage] = []
        self._alive: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}
        self._events: list[int] = []
        self._phases: list[tuple[int, str]] = [(0, "")]
        # In the order of allocation, so that equal blocks have equal events.
        self._resizable: dict[int, None] = {}
        self._emptied: set[int] = set()

    def __len__(self) -> int:
        """Return the number of events so far."""
        return len(self._events)

    def enter_phase(self, phase: str) -> None:
        """Begin a phase, which has a peak of its own."""
        self._phases.append((len(self._events), phase))

    def add(self, tensor: Tensor, state: str, module: str = "", operator: str = "") -> bool:
        """Record the storage of a tensor; return False if it is known to be alive."""
        storage = _storage(tensor)
        if id(storage) in self._alive:
            return False
        number = self._append(Storage(storage.nbytes(), state, module, operator))
        self._follow(storage, number)
        self._begin(number)
        if operator in _OF_BUFFERS and storage.nbytes():
            self._resizable[id(storage)] = None
        return True

    def check_sizes(self) -> None:
        """Record which buffers have been emptied, or filled again, in place.

        FSDP frees gathered parameters by resizing their storages, which no operator shows.
        """
        for key in self._resizable:
            number, reference = self._alive[key]
            storage = reference()
            emptied = storage is not None and storage.nbytes() == 0
            if emptied and key not in self._emptied:
                self._emptied.add(key)
                self._end(number)
            elif not emptied and key in self._emptied:
                self._emptied.discard(key)
                number = self.copy(number)
                self._alive[key] = number, reference
                self._begin(number)

    def stand_in(self, tensor: Tensor, number: int) -> None:
        """Let the release of a tensor's storage be that of storage `number`, not yet logged."""
        self._follow(tensor.untyped_storage(), number)
        self.live_bytes += self._storages[number].nbytes

    def copy(self, number: int) -> int:
        """Append a storage like another one, without an event; return its number."""
        return self._append(replace(self._storages[number]))

    def number(self, tensor: Tensor) -> int | None:
        """Return the number of a tensor's storage; None if it is not known to be alive."""
        entry = self._alive.get(id(_storage(tensor)))
        return entry[0] if entry else None

    def begin_scratch(self, nbytes: int, name: str, module: str) -> int:
        """Record scratch memory inside an operator; return the argument of `end_scratch`."""
        number = self._append(Storage(nbytes, "workspace", module, name))
        self._begin(number)
        return number

    def end_scratch(self, number: int) -> None:
        """Record that the operator that held the scratch memory is done."""
        self._end(number)

    def assign(self, tensors: Iterable[Tensor], state: str) -> None:
        """Set the state of the storages of these tensors, since their allocation."""
        for tensor in tensors:
            entry = self._alive.get(id(_storage(tensor)))
            if entry:
                self._storages[entry[0]].state = state

    def reassign_alive(self, old: str, new: str) -> None:
        """Set the state of each storage alive in state `old` to `new`."""
        for number, _ in self._alive.values():
            if self._storages[number].state == old:
                self._storages[number].state = new

    def rename(self, old: str, new: str) -> None:
        """Set the state of every storage in state `old`, released ones too, to `new`."""
        for storage in self._storages:
            if storage.state == old:
                storage.state = new

    def timeline(self) -> Timeline:
        """Return the events so far."""
        return Timeline(list(self._storages), list(self._events), list(self._phases))

    def peak(self, phase: str | None = None) -> Peak:
        """Return the peak so far of a phase, or of the whole trace if it is None."""
        return self.timeline().peak(phase)

    def _append(self, storage: Storage) -> int:
        self._storages.append(storage)
        return len(self._storages) - 1

    def _follow(self, storage: torch.UntypedStorage, number: int) -> None:
        key = id(storage)
        self._alive[key] = number, weakref.ref(storage, lambda _: self._released(key))

    def _begin(self, number: int) -> None:
        self.before_event()
        self._events.append(number + 1)
        self.live_bytes += self._storages[number].nbytes

    def _released(self, key: int) -> None:
        number, _ = self._alive.pop(key)
        self._resizable.pop(key, None)
        if key in self._emptied:
            self._emptied.discard(key)
        else:
            self._end(number)

    def _end(self, number: int) -> None:
        self.before_event()
        self._events.append(-number - 1)
        self.live_bytes -= self._storages[number].nbytes


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    """Return the storage of a tensor; of a sharded one (DTensor), of this rank's part."""
    local: Tensor = getattr(tensor, "_local_tensor", tensor)
    return local.untyped_storage()


def _nothing() -> None:
    pass
