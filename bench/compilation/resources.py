"""Resources that a compiled kernel uses, read from its machine code."""

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
    """Resources of one kernel.

    Attributes:
        registers: Registers per thread; on AMD, vector and accumulation registers together.
        spilled_bytes: Bytes of registers spilled to memory, per thread.
        shared_bytes: Shared memory (LDS) of a program.
        matrix_instructions: Number of matrix instructions in the code, by kind.
        atomic_instructions: Number of atomic instructions in the code, by kind.
        slow_products: Half-precision products without matrix instructions.
        instructions: Number of instructions in the code.
        loop_instructions: Instructions of the longest innermost loop; None without a loop.
        occupancy: Estimated resident warps, relative to the maximum of a multiprocessor.
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
    """Machine instruction: address, name, and the target of a jump."""

    address: int
    name: str
    target: int | None


@dataclass(frozen=True, slots=True)
class _Multiprocessor:
    """Resources that the programs on one multiprocessor (AMD: compute unit) share.

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
# Warps of 64, at most 8 on each of a unit's four SIMDs, each with 512 registers for every lane.
_AMD = {
    "gfx90a": _Multiprocessor(32, 4 * 512 * 64, 8, 64 * 1024, 64 * 1024),
    "gfx942": _Multiprocessor(32, 4 * 512 * 64, 8, 64 * 1024, 64 * 1024),
    "gfx950": _Multiprocessor(32, 4 * 512 * 64, 8, 160 * 1024, 160 * 1024),
}

# An instruction of SASS: address in a comment, optional predicate, name, operands.
_SASS = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
_SASS_MATRIX = re.compile(r"^(HMMA|HGMMA|QGMMA|IMMA|IGMMA|DMMA|BMMA|OMMA|UTC\w*MMA)")
# Read from PTX: in SASS, the bookkeeping of tensor memory looks like the program's own atomics.
_PTX_ATOMIC = re.compile(
    r"^\s*(?:@!?%\w+\s+)?((?:atom|red|multimem\.red|cp\.reduce\.async)\.\S+)", re.MULTILINE
)
_GCN_MATRIX = re.compile(r"^v_s?mfma\w*")
_GCN_ATOMIC = re.compile(
    r"^(global|flat|buffer)_atomic\w*|^ds_\w*(add|sub|max|min|cmpst|wrxchg)\w*"
)


def shared_limit(architecture: str) -> int:
    """Return the maximum shared memory of a program. Unit: B."""
    return (_NVIDIA | _AMD)[architecture].shared_limit


def read_resources(compiled: Any, architecture: str, warps: int) -> Resources:
    """Return the resources of a compiled kernel.

    Args:
        compiled: Result of ``triton.compile``.
        architecture: Architecture of the code.
        warps: Number of warps of a program.
    """
    shared = int(compiled.metadata.shared)
    if architecture in _AMD:
        text: str = compiled.asm["amdgcn"]
        code, matrix = _read_gcn(text), _GCN_MATRIX
        atomics = _by_kind(i.name for i in code if _GCN_ATOMIC.match(i.name))
        # The count of vector registers includes the accumulation registers.
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
    return sum(int(number) for number in re.findall(rf"\b{name}:(\d+)", usage))


def _gcn_field(text: str, name: str) -> int:
    match = re.search(rf"\.{name}:\s+(\d+)", text)
    return int(match[1]) if match else 0


def _read_sass(text: str) -> list[Instruction]:
    """Return the instructions of a cubin's listing; only branches have a target."""
    instructions = []
    for address, name, operands in _SASS.findall(text):
        target = re.search(r"0x([0-9a-f]+)", operands) if name.startswith("BRA") else None
        instructions.append(
            Instruction(int(address, 16), name, int(target[1], 16) if target else None)
        )
    return instructions


def _read_gcn(text: str) -> list[Instruction]:
    """Return the instructions of an assembly listing, with their numbers as addresses."""
    instructions: list[tuple[str, str | None]] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split(";")[0].split()
        if not words:
            continue
        if words[0].endswith(":"):
            labels[words[0][:-1]] = len(instructions)
        elif re.match(r"[vs]_|ds_|global_|buffer_|flat_|scratch_", words[0]):
            jump = words[0].startswith(("s_cbranch", "s_branch"))
            instructions.append((words[0], words[1] if jump else None))
    return [
        Instruction(number, name, labels.get(label) if label else None)
        for number, (name, label) in enumerate(instructions)
    ]


def _by_kind(names: Iterable[str]) -> dict[str, int]:
    """Return the number of occurrences of each name, sorted by name."""
    return dict(sorted(Counter(names).items()))


def _loop(code: Sequence[Instruction]) -> int | None:
    """Return the number of instructions of the longest innermost loop; None without a loop."""
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
    """Return the number of half-precision products that use no matrix instruction.

    Args:
        ttgir: Triton's GPU IR of the kernel, the last IR with products. Products with a blocked
            result layout count.
        matrix_instructions: Number of matrix instructions in the machine code; if it is 0, every
            product counts.
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
