"""Peak rates of devices, from the makers' data sheets.

Dense matrix products in FLOP/s without sparsity. ``float32`` is what torch does by default: full
float32, on matrix units where they have it, never TensorFloat-32. A device or dtype that is not
listed has no utilization, rather than a guessed one.
"""

from typing import NamedTuple

# Name as the driver gives it -> dtype -> FLOP/s. The source is the maker's data sheet of the name.
PEAK_FLOPS: dict[str, dict[str, float]] = {
    "NVIDIA A100-SXM4-40GB": {"bfloat16": 312e12, "float32": 19.5e12},
    "NVIDIA A100-SXM4-80GB": {"bfloat16": 312e12, "float32": 19.5e12},
    "NVIDIA A100-PCIE-40GB": {"bfloat16": 312e12, "float32": 19.5e12},
    "NVIDIA A100 80GB PCIe": {"bfloat16": 312e12, "float32": 19.5e12},
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989.4e12, "float32": 67e12},
    "NVIDIA H100 PCIe": {"bfloat16": 756e12, "float32": 51e12},
    "NVIDIA H200": {"bfloat16": 989.4e12, "float32": 67e12},
    "NVIDIA B200": {"bfloat16": 2250e12},
    # One of two dies each.
    "AMD Instinct MI250X": {"bfloat16": 191.5e12, "float32": 47.9e12},
    "AMD Instinct MI250": {"bfloat16": 181e12, "float32": 45.3e12},
    "AMD Instinct MI300X": {"bfloat16": 1307.4e12, "float32": 163.4e12},
    "AMD Instinct MI325X": {"bfloat16": 1307.4e12, "float32": 163.4e12},
    "AMD Instinct MI355X": {"bfloat16": 2516.6e12},
}


class Rates(NamedTuple):
    """What a device can do beside matrix products, at most.

    Attributes:
        bytes_s: Bytes of device memory, a second.
        exponentials_s: Exponentials, a second.
        instructions_s: Instructions of single threads, a second.
    """

    bytes_s: float
    exponentials_s: float
    instructions_s: float


# Name -> bytes/s of device memory; multiprocessors or compute units; their highest clock in Hz. Of
# the same data sheets; the clock is that with which the listed float32 rate agrees.
_MEMORY_AND_CLOCK = {
    "NVIDIA A100-SXM4-40GB": (1.555e12, 108, 1.41e9),
    "NVIDIA A100-SXM4-80GB": (2.039e12, 108, 1.41e9),
    "NVIDIA A100-PCIE-40GB": (1.555e12, 108, 1.41e9),
    "NVIDIA A100 80GB PCIe": (1.935e12, 108, 1.41e9),
    "NVIDIA H100 80GB HBM3": (3.35e12, 132, 1.98e9),
    "NVIDIA H100 PCIe": (2.0e12, 114, 1.755e9),
    "NVIDIA H200": (4.8e12, 132, 1.98e9),
    "AMD Instinct MI250X": (1.6384e12, 110, 1.7e9),
    "AMD Instinct MI250": (1.6384e12, 104, 1.7e9),
    "AMD Instinct MI300X": (5.3e12, 304, 2.1e9),
    "AMD Instinct MI325X": (6.0e12, 304, 2.1e9),
    "AMD Instinct MI355X": (8.0e12, 256, 2.4e9),
}
# A clock and multiprocessor: exponentials (CUDA C++ Programming Guide, throughput of native
# arithmetic instructions; instruction set manuals of CDNA: a quarter of a compute unit's lanes),
# and the threads that four schedulers of 32, or four SIMDs of 16, issue for.
_EXPONENTIALS = 16
_ISSUED = {"NVIDIA": 128, "AMD": 64}

_BY_NAME = {name.casefold(): peaks for name, peaks in PEAK_FLOPS.items()}


_RATES = {
    name.casefold(): Rates(
        bytes_s, count * clock * _EXPONENTIALS, count * clock * _ISSUED[name.split()[0]]
    )
    for name, (bytes_s, count, clock) in _MEMORY_AND_CLOCK.items()
}


def listed_rates(name: str) -> Rates | None:
    """The other rates of a device of that very name (capitals apart), or None."""
    return _RATES.get(name.casefold())


def listed_peak(name: str, dtype: str) -> float | None:
    """The peak of a device of that very name (capitals apart), or None."""
    return _BY_NAME.get(name.casefold(), {}).get(dtype)
