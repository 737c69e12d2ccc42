"""Accelerators of any vendor: a stream, a library that may be missing, parts of a device."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from bench.devices.device import (
    CudaStopwatch,
    Device,
    LibraryMissing,
    NotSupported,
    Stopwatch,
    Unavailable,
)
from bench.devices.peaks import Rates, listed_peak, listed_rates

_UNDIVIDED = "run on an undivided device"


class Accelerator(Device):
    """A device that torch calls ``cuda``, told about by its vendor's library.

    If the library cannot be loaded, the device works and everything that needs the library raises
    the reason.
    """

    # What a user without the library would install.
    library_unlock: str

    def __init__(self, index: int, library: Any) -> None:
        """Loads the library and finds the device in it.

        Args:
            index: torch's number of the device.
            library: The vendor's module or a stand-in; loaded if None.
        """
        self.torch_device = torch.device("cuda", index)
        self._library = library
        self._handle: Any = None
        self._why_not: Unavailable | None = None
        try:
            self._library = library or self._load()
            self._handle = self._find()
        except Unavailable as error:
            self._why_not = error

    @abstractmethod
    def _load(self) -> Any:
        """The vendor's module, initialized; raises `Unavailable`."""

    @abstractmethod
    def _find(self) -> Any:
        """The device's handle in the library; raises `Unavailable`."""

    @abstractmethod
    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function of the library; its errors become `Unavailable`."""

    def _ask(self, name: str, *args: Any) -> Any:
        """Calls a function of the library by name."""
        if self._why_not:
            raise self._why_not
        function = getattr(self._library, name, None)
        if function is None:
            raise LibraryMissing(f"this version has no {name}", self.library_unlock)
        return self._call(function, *args)

    def _query(self, name: str, *args: Any) -> Any:
        """Asks about this device."""
        return self._ask(name, self._handle, *args)

    def _optional(self, name: str, *args: Any) -> Any:
        """Asks about this device; None if that cannot be had."""
        try:
            return self._query(name, *args)
        except Unavailable:
            return None

    def stopwatch(self) -> Stopwatch:
        """See `Device`."""
        return CudaStopwatch()

    def synchronize(self) -> None:
        """See `Device`."""
        torch.cuda.synchronize(self.torch_device)

    def capture(self, work: Callable[[], object]) -> Callable[[], None]:
        """See `Device`; a graph of CUDA or HIP."""
        graph = torch.cuda.CUDAGraph()
        try:
            side = torch.cuda.Stream(self.torch_device)
            side.wait_stream(torch.cuda.current_stream(self.torch_device))
            # Allocations, compilation and choices of library kernels come before the capture.
            with torch.cuda.stream(side):
                for _ in range(3):
                    work()
            torch.cuda.current_stream(self.torch_device).wait_stream(side)
            with torch.cuda.graph(graph):
                work()
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise NotSupported(f"the work cannot be captured as a graph: {reason}") from None
        return graph.replay

    @abstractmethod
    def _part(self) -> str:
        """The part of a divided device that torch sees, such as ``MIG slice``; empty if whole."""

    def _need_whole(self, quantity: str) -> None:
        """Refuses what a divided device has as a whole alone.

        Raises:
            NotSupported: torch sees a part of the device.
        """
        if part := self._part():
            raise NotSupported(f"a {part} has no {quantity} of its own", _UNDIVIDED)

    def peak_flops(self, dtype: str) -> float:
        """See `Device`; a part of a device has no peak that a data sheet gives."""
        peak = listed_peak(self._whole_name(), dtype)
        return super().peak_flops(dtype) if peak is None else peak

    def peak_rates(self) -> Rates:
        """See `Device` and `peak_flops`."""
        rates = listed_rates(self._whole_name())
        return super().peak_rates() if rates is None else rates

    def _whole_name(self) -> str:
        name = self.describe().name
        if part := self._part():
            raise NotSupported(
                f"{name} is partitioned ({part}), and data sheets are of whole devices"
            )
        return name
