"""Driver for Triton's launch path that launches nothing, for a machine without the device.

A kernel started with it is looked up, specialized, compiled and cached by the same code as on a
device. The entries of Triton's cache are therefore those that a device of the same architecture
requests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from bench.compilation.resources import shared_limit
from bench.errors import UsageError
from refsys.ops.triton_backend import Launch, function

# Maximum number of threads of a program.
_THREADS = 1024
# Triton specializes on the alignment of an address only.
_ALIGNMENT = 16


@dataclass(frozen=True, slots=True)
class Pointer:
    """Substitute for a tensor in Triton's launcher.

    Attributes:
        dtype: Dtype of the elements.
        offset: Address modulo the alignment. Unit: B.
        storage_bytes: Size of the storage, which decides on 32-bit addressing in AMD's kernels.
    """

    dtype: torch.dtype
    offset: int
    storage_bytes: int

    def data_ptr(self) -> int:
        """Return an address with the alignment of the tensor."""
        return self.offset

    def ptr_range(self) -> int:
        """Return the number of addressable bytes."""
        return self.storage_bytes


def portable(launch: Launch) -> Launch:
    """Return the launch with each tensor replaced by a `Pointer`, so that it can be pickled."""
    return launch._replace(
        arguments=tuple(_portable(argument) for argument in launch.arguments),
        options=dict(launch.options),
    )


def _portable(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        offset = int(argument.storage_offset()) * argument.element_size()
        return Pointer(argument.dtype, offset % _ALIGNMENT, argument.untyped_storage().nbytes())
    if isinstance(argument, tuple):
        return tuple(_portable(part) for part in argument)
    return argument


def target_of(architecture: str) -> GPUTarget:
    """Return Triton's target of an architecture such as ``sm_90`` or ``gfx942``."""
    if architecture.startswith("sm_"):
        return GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    return GPUTarget("hip", architecture, 64)


class _Launcher:
    """Launcher that starts no kernel."""

    def __init__(self, source: Any, metadata: Any) -> None:
        """Accept the arguments that Triton passes to a launcher."""

    def __call__(self, *arguments: Any) -> None:
        """Start nothing."""


class _Utilities:
    """Properties and modules of the simulated device."""

    def __init__(self, architecture: str) -> None:
        self._shared_bytes = shared_limit(architecture)

    def get_device_properties(self, device: Any) -> dict[str, int]:
        """Return the only property that Triton checks kernels against."""
        del device
        return {"max_shared_mem": self._shared_bytes}

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: Any
    ) -> tuple[Any, Any, int, int, int]:
        """Return a module, a function, registers, spills and threads of a program."""
        del name, binary, shared, device
        return object(), object(), 0, 0, _THREADS

    def unload_module(self, module: Any) -> None:
        """Unload nothing."""


class OfflineDriver(DriverBase):
    """Driver of a simulated device of some architecture."""

    launcher_cls = _Launcher

    def __init__(self, architecture: str) -> None:
        super().__init__()
        self.architecture = architecture
        self.utils = _Utilities(architecture)

    @classmethod
    def is_active(cls) -> bool:
        """Return False: the driver is never selected automatically."""
        return False

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Raise: no launcher is generated."""
        raise NotImplementedError(ty)

    def get_current_target(self) -> GPUTarget:
        """Return the compilation target."""
        return target_of(self.architecture)

    def get_current_device(self) -> str:
        """Return the key of the process's compiled kernels, one set for each architecture."""
        return self.architecture

    def get_current_stream(self, device: Any) -> int:
        """Return the default stream."""
        del device
        return 0

    def set_current_device(self, device: Any) -> None:
        """Change nothing."""

    def get_active_torch_device(self) -> torch.device:
        """Return the CPU."""
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        """Raise: there is no device to measure."""
        raise NotImplementedError


@contextmanager
def offline(architecture: str) -> Iterator[None]:
    """Compile for this architecture and launch nothing inside the block.

    Raises:
        UsageError: Kernels are interpreted in this process.
    """
    if knobs.runtime.interpret:
        raise UsageError("TRITON_INTERPRET is set: kernels are interpreted, not compiled")
    # `driver.active` would look for a device.
    outer = driver._active
    driver.set_active(OfflineDriver(architecture))
    try:
        yield
    finally:
        driver._active = outer


def variant(launch: Launch) -> str:
    """Return the key under which Triton stores the compiled kernel of a launch in a process.

    Launches of one kernel with equal keys share one compilation. Call inside `offline`.
    """
    kernel = function(launch.kernel)
    *_caches, binder = kernel.device_caches[driver.active.get_current_device()]
    _bound, specialization, options = binder(*launch.arguments, **launch.options)
    return f"{launch.kernel} {specialization} {sorted(options.items())}"


def compile_launch(launch: Launch) -> Any:
    """Return the compiled kernel of a launch, from Triton's cache if possible.

    Call inside `offline`, with a launch that `portable` returned.
    """
    kernel = function(launch.kernel)
    return kernel.run(*launch.arguments, grid=launch.grid, warmup=True, **launch.options)


def start(launch: Launch) -> None:
    """Start the kernel as `refsys.ops.triton_backend.launch` does; the driver launches nothing.

    See `compile_launch`.
    """
    function(launch.kernel)[launch.grid](*launch.arguments, **launch.options)
