"""Peak rates of dense bfloat16 matrix products, from the makers' data sheets.

FLOP/s without sparsity. A device that is not listed has no utilization, rather than a guessed one.
"""

# Name as the driver gives it (a prefix suffices) -> (FLOP/s, source).
PEAK_BFLOAT16 = {
    "NVIDIA A100": (312e12, "NVIDIA A100 data sheet, 2021"),
    "NVIDIA H100 80GB HBM3": (989.4e12, "NVIDIA H100 data sheet (SXM), 2023"),
    "NVIDIA H100 PCIe": (756e12, "NVIDIA H100 data sheet (PCIe), 2023"),
    "NVIDIA H200": (989.4e12, "NVIDIA H200 data sheet (SXM), 2024"),
    "NVIDIA B200": (2250e12, "NVIDIA Blackwell data sheet (HGX B200), 2024"),
    "AMD Instinct MI250X": (191.5e12, "AMD Instinct MI250X data sheet, one of two dies, 2021"),
    "AMD Instinct MI250": (181e12, "AMD Instinct MI250 data sheet, one of two dies, 2021"),
    "AMD Instinct MI300X": (1307.4e12, "AMD Instinct MI300X data sheet, 2023"),
    "AMD Instinct MI325X": (1307.4e12, "AMD Instinct MI325X data sheet, 2024"),
    "AMD Instinct MI355X": (2516.6e12, "AMD Instinct MI355X data sheet, 2025"),
}


def peak_bfloat16(name: str) -> float | None:
    """The peak of the longest listed prefix of `name`, or None."""
    matches = [listed for listed in PEAK_BFLOAT16 if name.startswith(listed)]
    return PEAK_BFLOAT16[max(matches, key=len)][0] if matches else None
