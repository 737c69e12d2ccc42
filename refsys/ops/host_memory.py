"""Copies of a device's tensors in host memory, made beside the computation.

On an accelerator the host's memory is pinned, and copies in both directions run on one stream of
their own. On a CPU the same operators copy plainly. A trace knows them by their names: what
`TO_HOST` returns is not in the device's memory.
"""

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from refsys.ops.triton_backend import custom_operator

# Names of the operators in a trace.
TO_HOST, TO_DEVICE = "foldperf.to_host.default", "foldperf.to_device.default"


class Copy:
    """Copy of a tensor in flight; its source must be held until `wait` has been called.

    Attributes:
        tensor: The copy.
    """

    def __init__(self, tensor: Tensor, device: torch.device) -> None:
        """Note that the last operation on the device's copying stream is this copy."""
        self.tensor = tensor
        self._device = device
        self._done = _stream(device).record_event() if device.type == "cuda" else None

    def wait(self) -> Tensor:
        """Return the copy; work launched from now on waits for it."""
        if self._done is not None:
            torch.cuda.current_stream(self._device).wait_event(self._done)
            self._done = None
        return self.tensor

    def __del__(self) -> None:
        # The memory of a copy that nothing reads is not used again while it is being written.
        self.wait()


def to_host(x: Tensor) -> Copy:
    """Start to copy a tensor to host memory; the copy has its strides if it has no gaps."""
    with torch.no_grad():
        return Copy(_to_host(x.detach()), x.device)


def to_device(host: Tensor, device: torch.device) -> Copy:
    """Start to copy a tensor of host memory back to a device, once it has arrived there."""
    with torch.no_grad():
        return Copy(_to_device(host, device), device)


@functools.cache
def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)


@custom_operator("to_host")
def _to_host(x: Tensor) -> Tensor:
    if x.device.type != "cuda":
        return torch.empty_like(x, device="cpu").copy_(x)
    host = torch.empty_like(x, device="cpu", pin_memory=True)
    _copy(host, x, x.device)
    return host


@custom_operator("to_device")
def _to_device(host: Tensor, device: torch.device) -> Tensor:
    x = torch.empty_like(host, device=device)
    if device.type != "cuda":
        return x.copy_(host)
    _copy(x, host, device)
    return x


def _copy(target: Tensor, source: Tensor, device: torch.device) -> None:
    """Copy on the side stream, after the work that has been launched so far."""
    stream = _stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        target.copy_(source, non_blocking=True)


@register_flop_formula([torch.ops.foldperf.to_host, torch.ops.foldperf.to_device])
def _no_flops(*_arguments: Any, **_options: Any) -> int:
    return 0
