"""What a compiled kernel takes of its device, read from its machine code."""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Resources:
    """What one kernel takes.

    Attributes:
        registers: Of each thread; on AMD of vector and accumulation registers together.
        spilled_bytes: Of each thread's registers that went to memory.
        shared_bytes: Shared memory (LDS) of a program.
        matrix_instructions: In the code, by kind.
        atomic_instructions: In the code, by kind.
        slow_products: Products of half precision that use no matrix instruction.
        instructions: In the code.
        loop_instructions: In its longest innermost loop; None if it has no loop.
        occupancy: Estimate of the resident warps over the most that a multiprocessor holds.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix_instructions: Mapping[str, int]
    atomic_instructions: Mapping[str, int]
    slow_products: int
    instructions: int
    loop_instructions: int | None
    occupancy: float


class Instruction(NamedTuple):
    """One machine instruction: its address, its name, and the address it may jump to."""

    address: int
    name: str
    target: int | None


@dataclass(frozen=True, slots=True)
class _Multiprocessor:
    """What the programs on one multiprocessor share (an AMD compute unit has four SIMDs).

    Sources: CUDA C++ Programming Guide, table of technical specifications by compute capability;
    AMD's instruction set manuals of CDNA 2 and 3, and the CDNA 4 white paper.
    """

    warps: int
    registers: int
    register_granule: int
    shared_bytes: int
    shared_limit: int
    reserved_bytes: int = 0


_NVIDIA = {
    "sm_80": _Multiprocessor(64, 65536, 8, 164 * 1024, 163 * 1024, 1024),
    "sm_90": _Multiprocessor(64, 65536, 8, 228 * 1024, 227 * 1024, 1024),
    "sm_100": _Multiprocessor(64, 65536, 8, 228 * 1024, 227 * 1024, 1024),
}
# Warps of 64, at most 8 on each of four SIMDs, each with 512 registers for every lane.
_AMD = {
    "gfx90a": _Multiprocessor(32, 4 * 512 * 64, 8, 64 * 1024, 64 * 1024),
    "gfx942": _Multiprocessor(32, 4 * 512 * 64, 8, 64 * 1024, 64 * 1024),
    "gfx950": _Multiprocessor(32, 4 * 512 * 64, 8, 160 * 1024, 160 * 1024),
}

# An instruction of SASS: its address in a comment, a predicate perhaps, its name, its operands.
_SASS = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
_SASS_MATRIX = re.compile(r"^(HMMA|HGMMA|QGMMA|IMMA|IGMMA|DMMA|BMMA|OMMA|UTC\w*MMA)")
# Of PTX: in SASS the bookkeeping of tensor memory looks like atomics of the program.
_PTX_ATOMIC = re.compile(
    r"^\s*(?:@!?%\w+\s+)?((?:atom|red|multimem\.red|cp\.reduce\.async)\.\S+)", re.MULTILINE
)
_GCN_MATRIX = re.compile(r"^v_s?mfma\w*")
_GCN_ATOMIC = re.compile(
    r"^(global|flat|buffer)_atomic\w*|^ds_\w*(add|sub|max|min|cmpst|wrxchg)\w*"
)


def shared_limit(architecture: str) -> int:
    """Bytes of shared memory that one program may have."""
    return (_NVIDIA | _AMD)[architecture].shared_limit


def read_resources(compiled: Any, architecture: str, warps: int) -> Resources:
    """What a kernel takes.

    Args:
        compiled: What ``triton.compile`` returned.
        architecture: What it was compiled for.
        warps: That it was compiled with.
    """
    shared = int(compiled.metadata.shared)
    if architecture in _AMD:
        text: str = compiled.asm["amdgcn"]
        code, matrix = _read_gcn(text), _GCN_MATRIX
        atomics = _by_kind(i.name for i in code if _GCN_ATOMIC.match(i.name))
        # Accumulation registers come after the vector registers, and are counted with them.
        registers = _gcn_field(text, "vgpr_count")
        spilled = 4 * (_gcn_field(text, "vgpr_spill_count") + _gcn_field(text, "sgpr_spill_count"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder, "kernel.cubin")
            cubin.write_bytes(compiled.asm["cubin"])
            code, matrix = _read_sass(_cuobjdump("-sass", cubin)), _SASS_MATRIX
            usage = _cuobjdump("--dump-resource-usage", cubin)
        atomics = _by_kind(_PTX_ATOMIC.findall(compiled.asm["ptx"]))
        registers = _sass_field(usage, "REG")
        spilled = _sass_field(usage, "STACK") + _sass_field(usage, "LOCAL")
    products = _by_kind(i.name for i in code if matrix.match(i.name))
    return Resources(
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=shared,
        matrix_instructions=products,
        atomic_instructions=atomics,
        slow_products=count_slow_products(compiled.asm["ttgir"], sum(products.values())),
        instructions=len(code),
        loop_instructions=_loop(code),
        occupancy=_occupancy(architecture, registers, shared, warps),
    )


@cache
def _tool(name: str) -> str:
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)


def _cuobjdump(option: str, file: Path) -> str:
    command = [_tool("cuobjdump"), option, str(file)]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout


def _sass_field(usage: str, name: str) -> int:
    return sum(int(found) for found in re.findall(rf"\b{name}:(\d+)", usage))


def _gcn_field(text: str, name: str) -> int:
    found = re.search(rf"\.{name}:\s+(\d+)", text)
    return int(found[1]) if found else 0


def _read_sass(text: str) -> list[Instruction]:
    """The instructions of a cubin's listing; only branches have a target."""
    found = []
    for address, name, operands in _SASS.findall(text):
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        found.append(Instruction(int(address, 16), name, int(target[1], 16) if target else None))
    return found


def _read_gcn(text: str) -> list[Instruction]:
    """The instructions of an assembly listing, numbered; branches name labels."""
    found: list[tuple[str, str | None]] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split(";")[0].split()
        if not words:
            continue
        if words[0].endswith(":"):
            labels[words[0][:-1]] = len(found)
        elif re.match(r"[vs]_|ds_|global_|buffer_|flat_|scratch_", words[0]):
            jump = words[0].startswith(("s_cbranch", "s_branch"))
            found.append((words[0], words[1] if jump else None))
    return [
        Instruction(number, name, labels.get(label) if label else None)
        for number, (name, label) in enumerate(found)
    ]


def _by_kind(names: Iterable[str]) -> dict[str, int]:
    """How many there are of each, in the order of their names."""
    return dict(sorted(Counter(names).items()))


def _loop(code: Sequence[Instruction]) -> int | None:
    """Instructions of the longest loop that has no other inside."""
    loops = [(i.target, i.address) for i in code if i.target is not None and i.target < i.address]
    innermost = [
        (first, last)
        for first, last in loops
        if not any((first, last) != (a, b) and first <= a and b <= last for a, b in loops)
    ]
    lengths = (
        sum(first <= instruction.address <= last for instruction in code)
        for first, last in innermost
    )
    return max(lengths, default=None)


_HALF = r"tensor<[^>]*x(?:f16|bf16)\b[^>]*>"
_PRODUCT = re.compile(rf"\btt\.dot\b.*:\s*{_HALF}.*->\s*tensor<[^>]*#(\w+)>")
_ANY_PRODUCT = re.compile(r"\b(?:tt\.dot|ttng\.warp_group_dot|ttng\.tc_gen5_mma)\b")


def count_slow_products(ttgir: str, matrix_instructions: int) -> int:
    """Products of half precision that use no matrix instruction.

    Args:
        ttgir: Triton's last form of the kernel that names products: those whose result is laid out
            for plain arithmetic count.
        matrix_instructions: In the machine code; if there is none, every product counts.
    """
    if not matrix_instructions:
        return len(_ANY_PRODUCT.findall(ttgir))
    layouts = dict(re.findall(r"^#(\w+) = #ttg\.(\w+)", ttgir, re.MULTILINE))
    return sum(layouts.get(name) == "blocked" for name in _PRODUCT.findall(ttgir))


def _occupancy(architecture: str, registers: int, shared: int, warps: int) -> float:
    nvidia = architecture in _NVIDIA
    unit = (_NVIDIA if nvidia else _AMD)[architecture]
    lanes = 32 if nvidia else 64
    rounded = -(-max(registers, 1) // unit.register_granule) * unit.register_granule
    by_registers = unit.registers // (rounded * lanes * warps)
    by_shared = unit.shared_bytes // (shared + unit.reserved_bytes) if shared else unit.warps
    programs = min(by_registers, by_shared, unit.warps // warps)
    return programs * warps / unit.warps
