"""The way of a batch to the device: a ring of pinned memory, and a stream beside the work's."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from refsys.batch import Batch, PackedBatch

# One is filled while the other is copied from.
_SLOTS = 2


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch on its way.

    Attributes:
        host: It, on the host.
    """

    host: Batch
    _device: Batch
    _await: Callable[[], None]

    def arrived(self) -> Batch:
        """The batch on the device, which what is launched from now on may use."""
        self._await()
        return self._device


class Upload:
    """Sends batches to a device, in order. To the host itself nothing is copied."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._slots = [_Slot() for _ in range(_SLOTS)]
        self._sent = 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, packed: PackedBatch) -> Sent:
        """Begins to send a batch; any one thread may do it, beside the one that works.

        It waits for the batch that was sent `_SLOTS` before, whose pinned memory this one takes.
        """
        host = packed.unpacked()
        if self._stream is None:
            return Sent(host, host, _is_there)
        slot = self._slots[self._sent % _SLOTS]
        self._sent += 1
        pinned = slot.filled(packed.buffer)
        with torch.cuda.stream(self._stream):
            buffer = pinned.to(self.device, non_blocking=True)
            copied = slot.copied = torch.cuda.Event()
            copied.record(self._stream)

        def wait() -> None:
            working = torch.cuda.current_stream(self.device)
            working.wait_event(copied)
            # Its memory goes back to the side stream's pool, once the work is done with it.
            buffer.record_stream(working)

        return Sent(host, replace(packed, buffer=buffer).unpacked(), wait)


class _Slot:
    """Pinned memory, reused once the device has copied from it."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self.copied: torch.cuda.Event | None = None

    def filled(self, content: Tensor) -> Tensor:
        """[byte] pinned, with this content."""
        if self.copied is not None:
            self.copied.synchronize()
        if len(self._buffer) < len(content):
            self._buffer = torch.empty(len(content), dtype=torch.uint8, pin_memory=True)
        return self._buffer[: len(content)].copy_(content)


def _is_there() -> None:
    """Nothing is to be waited for."""
