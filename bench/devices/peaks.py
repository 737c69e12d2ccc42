"""Peak rates of dense matrix products, from the makers' data sheets.

FLOP/s without sparsity. ``float32`` is what torch does by default: full float32, on matrix units
where they have it, never TensorFloat-32. A device or dtype that is not listed has no utilization,
rather than a guessed one.
"""

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
_BY_NAME = {name.casefold(): peaks for name, peaks in PEAK_FLOPS.items()}


def listed_peak(name: str, dtype: str) -> float | None:
    """The peak of a device of that very name (capitals apart), or None."""
    return _BY_NAME.get(name.casefold(), {}).get(dtype)
