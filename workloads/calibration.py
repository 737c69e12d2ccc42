"""Peak rates that a device reaches in practice: copies, matrix products, exponentials."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from refsys.options import option
from refsys.precision import PRECISIONS, precision
from workloads.errors import UnsupportedError
from workloads.workload import ExecutionContext, Program, StaticCosts, Value, Workload

_MIB = 2**20
# Default size of each quantity; see the axis.
_SIZES = {"copy": 512, "l2_copy": 16, "product": 8192, "exponentials": 64}
# Display name of each resource, and the kind of its rate's unit.
_RESOURCES = {
    "copy": ("copy in device memory", "bandwidth"),
    "l2_copy": ("copy in the L2 cache", "bandwidth"),
    "product": ("matrix product", "flops"),
    "exponentials": ("exponentials", "rate"),
}
# Copies in one step where each takes microseconds alone.
_L2_COPIES = 32
# Exponentials of each element in one step.
ROUNDS = 256
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationCase:
    """Configuration of a case."""

    quantity: str = option("copy", "resource that is used", choices=tuple(_SIZES), titled=True)
    size: int = option(
        0,
        "MiB of a copy (both buffers of l2_copy), side of the square matrices of a product, MiB of "
        "float32 elements of exponentials; 0 is the quantity's own",
        minimum=0,
    )
    precision: str = option(
        "bfloat16", "dtype table; of matrix products", choices=tuple(PRECISIONS)
    )


class CalibrationWorkload(Workload[CalibrationCase]):
    """Cases of one resource of the device, used as fully as a simple program can."""

    name = "device-rates"
    device_check = "device rates"
    summary = "achieved rates of device memory, L2 cache, matrix units and exponentials"
    configuration = CalibrationCase
    selections: ClassVar = {
        "exact": ({"quantity": "product", "size": 1024},),
        "timing": ({"quantity": "product", "size": 512, "precision": "float32"},),
        "quick": (),
    }

    def configure(self, values: Mapping[str, object]) -> CalibrationCase:
        """See `Workload`; a size of 0 becomes the quantity's own."""
        config = super().configure(values)
        return replace(config, size=config.size or _SIZES[config.quantity])

    def labels(self, config: CalibrationCase) -> dict[str, Value]:
        """See `Workload`; there are no tokens.

        A resource and the kind of its rate are named beside what views group by; the work of a
        step is in the outcome.
        """
        resource, rate = _RESOURCES[config.quantity]
        precision_ = config.precision if rate == "flops" else ""
        return {
            "tokens": 0,
            "series": f"{self.name} {config.quantity}",
            "variant": precision_,
            "synthetic": True,
            "resource": f"{precision_} {resource}".strip(),
            "rate": rate,
        }

    def static_costs(self, config: CalibrationCase) -> StaticCosts:
        """See `Workload`; bytes are those of device memory, which a copy in the cache has not."""
        quantity, size = config.quantity, config.size
        arithmetic = precision(config.precision).activations
        flops = nbytes = exponentials = 0
        if quantity == "copy":
            nbytes = 2 * size * _MIB
        elif quantity == "product":
            flops = 2 * size**3
            nbytes = 3 * size**2 * arithmetic.itemsize
        elif quantity == "exponentials":
            nbytes = 2 * size * _MIB
            exponentials = size * _MIB // 4 * ROUNDS
        return StaticCosts(
            parameters=0,
            components={},
            forward_flops=flops,
            forward_flops_by_component={quantity: flops},
            step_flops=flops,
            arithmetic=str(arithmetic).removeprefix("torch."),
            minimum_bytes=nbytes,
            exponentials=exponentials,
            notes=("a resource by itself: no part of a model",),
        )

    def build(self, config: CalibrationCase, setting: ExecutionContext) -> "CalibrationProgram":
        """See `Workload`.

        Raises:
            UnsupportedError: exponentials are requested where no Triton kernel runs.
        """
        if config.quantity == "exponentials" and setting.device.type != "cuda":
            raise UnsupportedError("the rate of exponentials is measured on an accelerator alone")
        return CalibrationProgram(config, setting.device)

    def build_abstract(self, config: CalibrationCase) -> "CalibrationProgram":
        """See `Workload`."""
        return CalibrationProgram(config, None)


class CalibrationProgram(Program):
    """One resource, used again and again by one phase."""

    phases = ("forward",)
    host_phases = ()

    def __init__(self, config: CalibrationCase, device: torch.device | None) -> None:
        self._quantity, size = config.quantity, config.size
        self._is_abstract = device is None
        table = precision(config.precision)
        generator = None if device is None else torch.Generator(device).manual_seed(0)

        def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            # Zeros take less power than data, and a clock may rise with them.
            return torch.randn(*shape, generator=generator, device=device).to(dtype)

        if self._quantity == "product":
            self._inputs = [normal(size, size, dtype=table.activations) for _ in range(2)]
            self._out = torch.empty_like(self._inputs[0])
        else:
            share = 2 if self._quantity == "l2_copy" else 1
            self._inputs = [normal(size * _MIB // 4 // share)]
            self._out = torch.empty_like(self._inputs[0])

    def run(self, phase: str) -> None:
        """See `Program`."""
        del phase
        if self._quantity == "product":
            torch.mm(*self._inputs, out=self._out)
        elif self._quantity == "copy":
            self._out.copy_(self._inputs[0])
        elif self._quantity == "l2_copy":
            for _ in range(_L2_COPIES // 2):
                self._out.copy_(self._inputs[0])
                self._inputs[0].copy_(self._out)
        elif not self._is_abstract:
            from workloads.calibration_kernels import exponentials

            count = self._out.numel()
            exponentials[count // _BLOCK,](
                self._inputs[0], self._out, ROUNDS=ROUNDS, BLOCK=_BLOCK, num_warps=4
            )

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {"inputs": [*self._inputs, self._out]}

    def outcome(self) -> dict[str, float]:
        """See `Program`: the work of a step: bytes, FLOPs or exponentials."""
        count, nbytes = self._out.numel(), self._out.nbytes
        work = {
            "copy": 2.0 * nbytes,
            "l2_copy": 2.0 * _L2_COPIES * nbytes,
            "product": 2.0 * self._out.shape[0] ** 3,
            "exponentials": float(ROUNDS * count),
        }
        return {"work": work[self._quantity]}
