"""Base class of accelerators: stream, vendor library (which may be missing), parts of a device."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from bench.devices.device import (
    CudaStopwatch,
    Device,
    LibraryMissing,
    NotSupported,
    Stopwatch,
    Unavailable,
)
from refsys.costs.devices import ListedDevice, Rates, listed

_UNDIVIDED = "run on an undivided device"


class TorchProperties(NamedTuple):
    """Properties of a device that torch itself knows, with or without the vendor's library.

    Attributes:
        name: Name of the device; empty if the runtime has none.
        memory_bytes: Memory of the device, or of the part of it that torch sees.
        units: Multiprocessors (CUDA) or compute units (HIP).
        architecture: Instruction set of a HIP device, such as ``gfx90a``; empty on CUDA.
        uuid: Identity of the device; None if the runtime has none.
    """

    name: str
    memory_bytes: int
    units: int
    architecture: str = ""
    uuid: str | None = None

    @classmethod
    def read(cls, index: int) -> "TorchProperties":
        """Read the properties of a device.

        Args:
            index: torch's number of the device.
        """
        properties = torch.cuda.get_device_properties(index)
        architecture = getattr(properties, "gcnArchName", "") if torch.version.hip else ""
        uuid = str(getattr(properties, "uuid", "") or "")
        return cls(
            name=properties.name.strip(),
            memory_bytes=int(properties.total_memory),
            units=int(properties.multi_processor_count),
            architecture=architecture.partition(":")[0],
            uuid=uuid if uuid.strip("0-") else None,
        )


class Accelerator(Device):
    """Device that torch calls ``cuda``, described by torch and by its vendor's library.

    If the library cannot be loaded, the device still works, with the name and memory that torch
    reports; readings that need the library raise the reason.
    """

    # Command or package that a user without the library would install.
    library_unlock: str

    def __init__(self, index: int, library: Any, properties: TorchProperties | None = None) -> None:
        """Load the library and find the device in it.

        Args:
            index: torch's number of the device.
            library: The vendor's module or a stand-in; loaded if None.
            properties: Properties that torch knows; None if they are not known.
        """
        self.torch_device = torch.device("cuda", index)
        self._properties = properties
        self._library = library
        self._handle: Any = None
        self._unavailable: Unavailable | None = None
        try:
            self._library = library or self._load()
            self._handle = self._find()
        except Unavailable as error:
            self._unavailable = error

    @property
    def library_error(self) -> Unavailable | None:
        """Reason for which the vendor's library cannot be queried, or None."""
        return self._unavailable

    @abstractmethod
    def _load(self) -> Any:
        """Return the vendor's module, initialized; raise `Unavailable`."""

    @abstractmethod
    def _find(self) -> Any:
        """Return the device's handle in the library; raise `Unavailable`."""

    @abstractmethod
    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of the library and convert its errors to `Unavailable`."""

    def _ask(self, name: str, *args: Any) -> Any:
        """Call a function of the library by name."""
        if self._unavailable:
            raise self._unavailable
        function = getattr(self._library, name, None)
        if function is None:
            raise LibraryMissing(f"this version has no {name}", self.library_unlock)
        return self._call(function, *args)

    def _query(self, name: str, *args: Any) -> Any:
        """Call a query of the library for this device."""
        return self._ask(name, self._handle, *args)

    def _optional(self, name: str, *args: Any) -> Any:
        """Call a query of the library for this device; return None if it is unavailable."""
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
            # Allocation, compilation and autotuning must happen before the capture.
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
        """Return the part of a divided device that torch sees, such as ``MIG slice``, or ''."""

    def _need_whole(self, quantity: str) -> None:
        """Refuse a quantity that exists for the undivided device only.

        Raises:
            NotSupported: Torch sees a part of the device.
        """
        if part := self._part():
            raise NotSupported(f"a {part} has no {quantity} of its own", _UNDIVIDED)

    def peak_flops(self, dtype: str) -> float:
        """See `Device`; data sheets have no peaks for parts of a device."""
        entry = self._listed()
        return entry.flops[dtype] if entry and dtype in entry.flops else super().peak_flops(dtype)

    def peak_rates(self) -> Rates:
        """See `Device` and `peak_flops`."""
        entry = self._listed()
        rates = entry.rates() if entry else None
        return super().peak_rates() if rates is None else rates

    def _listed(self) -> ListedDevice | None:
        """Return the entry of the whole device in the table of peaks, or None.

        Raises:
            NotSupported: Torch sees a part of the device.
        """
        name = self.describe().name
        if part := self._part():
            raise NotSupported(
                f"{name} is partitioned ({part}), and data sheets list undivided devices only"
            )
        units = self._properties.units if self._properties else None
        entry = listed(name, units)
        if entry and entry.units and units and units != entry.units:
            raise NotSupported(
                f"torch sees {units} of the {entry.units} compute units of {name}, and data sheets "
                "list undivided devices only"
            )
        return entry
