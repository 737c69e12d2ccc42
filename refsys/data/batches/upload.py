"""Asynchronous upload of batches: a ring of pinned buffers and a side stream."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from refsys.batch import Batch, PackedBatch

# Pinned buffers: one is filled while the device copies from the other.
_SLOTS = 2


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch whose upload has been started.

    Attributes:
        host: The batch on the host.
    """

    host: Batch
    _device: Batch
    _wait: Callable[[], None]

    def arrived(self) -> Batch:
        """Return the batch on the device; work launched from now on waits for the copy."""
        self._wait()
        return self._device


class Upload:
    """Uploader of batches to a device, in order. For the CPU nothing is copied."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._slots = [_Slot() for _ in range(_SLOTS)]
        self._sent = 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def send(self, packed: PackedBatch) -> Sent:
        """Start the upload of a batch; one thread at a time may call this.

        It waits for the upload `_SLOTS` batches earlier, whose pinned buffer this one reuses.
        """
        host = packed.unpacked()
        if self._stream is None:
            return Sent(host, host, _do_nothing)
        slot = self._slots[self._sent % _SLOTS]
        self._sent += 1
        pinned = slot.filled(packed.buffer)
        with torch.cuda.stream(self._stream):
            buffer = pinned.to(self.device, non_blocking=True)
            copied = slot.copied = torch.cuda.Event()
            copied.record(self._stream)

        def wait() -> None:
            compute_stream = torch.cuda.current_stream(self.device)
            compute_stream.wait_event(copied)
            # The allocator reuses the memory on the side stream once the computation is done.
            buffer.record_stream(compute_stream)

        return Sent(host, replace(packed, buffer=buffer).unpacked(), wait)


class _Slot:
    """Pinned buffer, reused once the device has copied from it."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self.copied: torch.cuda.Event | None = None

    def filled(self, content: Tensor) -> Tensor:
        """Return a pinned tensor [byte] with this content."""
        if self.copied is not None:
            self.copied.synchronize()
        if len(self._buffer) < len(content):
            self._buffer = torch.empty(len(content), dtype=torch.uint8, pin_memory=True)
        return self._buffer[: len(content)].copy_(content)


def _do_nothing() -> None:
    """Stand in for the wait where nothing is copied."""
