"""Kernels that each violate a limit; as a script, compile them and print the violations."""

import json

import triton
import triton.language as tl

from bench.compilation.compiler import Compiled, compile_specimen
from bench.compilation.limits import violations
from bench.compilation.specimens import Specimen


@triton.jit
def spill(x, out):
    """Keep more values alive than a warp has registers."""
    offset = tl.arange(0, 256)[:, None] * 128 + tl.arange(0, 128)[None, :]
    tile = tl.load(x + offset)
    tl.store(out + offset, tile * tl.sum(tl.sum(tile, 1), 0))


@triton.jit
def overflow(x, out):
    """Multiply matrices that do not fit into the LDS."""
    row, column, inner = tl.arange(0, 64), tl.arange(0, 256), tl.arange(0, 256)
    a = tl.load(x + row[:, None] * 256 + inner[None, :])
    b = tl.load(x + inner[:, None] * 256 + column[None, :])
    tl.store(out + row[:, None] * 256 + column[None, :], tl.dot(a, b))


@triton.jit
def atomic(x, out):
    """Add with atomics, in no defined order."""
    offset = tl.arange(0, 64)
    tl.atomic_add(out + offset, tl.load(x + offset))


@triton.jit
def slow(x, out):
    """Multiply half-precision matrices that are too small for a matrix instruction."""
    offset = tl.arange(0, 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
    tile = tl.load(x + offset)
    tl.store(out + offset, tl.dot(tile, tile))


@triton.jit
def broken(x, out):
    """Use a width that is not a power of two, which does not compile."""
    tl.store(out + tl.arange(0, 3), tl.load(x + tl.arange(0, 3)))


MUTANTS = {
    "spill": (spill, "sm_90", "fp32", 1),
    "overflow": (overflow, "gfx90a", "bf16", 4),
    "atomic": (atomic, "sm_90", "fp32", 4),
    "atomic on AMD": (atomic, "gfx942", "fp32", 4),
    "slow": (slow, "gfx942", "fp16", 4),
    "broken": (broken, "sm_80", "fp32", 4),
}


def main():
    found_violations = {}
    for name, (kernel, architecture, dtype, warps) in MUTANTS.items():
        options = {"num_warps": warps, "num_stages": 1}
        types = f"*{dtype}", "*fp32"
        specimen = Specimen(name, architecture, dtype, types, ((0,), (1,)), {}, options)
        try:
            resources, error = compile_specimen(specimen, kernel), None
        except Exception as raised:
            resources, error = None, type(raised).__name__
        compiled = Compiled(specimen, resources, error, seconds=0.0, cached=False)
        found_violations[name] = list(violations(compiled))
    print(json.dumps(found_violations))


if __name__ == "__main__":
    main()
