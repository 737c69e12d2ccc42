"""Kernels that break a rule each. Run as a script, it compiles them and prints what is found."""

import json

import triton
import triton.language as tl

from bench.compilation.compiler import Compiled, compile_specimen
from bench.compilation.limits import violations
from bench.compilation.specimens import Specimen


@triton.jit
def spill(x, out):
    """So many numbers alive at once that one warp has no registers for them."""
    place = tl.arange(0, 256)[:, None] * 128 + tl.arange(0, 128)[None, :]
    tile = tl.load(x + place)
    tl.store(out + place, tile * tl.sum(tl.sum(tile, 1), 0))


@triton.jit
def overflow(x, out):
    """A product whose factors are more than the LDS holds."""
    row, column, inner = tl.arange(0, 64), tl.arange(0, 256), tl.arange(0, 256)
    a = tl.load(x + row[:, None] * 256 + inner[None, :])
    b = tl.load(x + inner[:, None] * 256 + column[None, :])
    tl.store(out + row[:, None] * 256 + column[None, :], tl.dot(a, b))


@triton.jit
def atomic(x, out):
    """A sum in no order."""
    place = tl.arange(0, 64)
    tl.atomic_add(out + place, tl.load(x + place))


@triton.jit
def slow(x, out):
    """A product of half precision, too small for a matrix instruction."""
    place = tl.arange(0, 8)[:, None] * 8 + tl.arange(0, 8)[None, :]
    tile = tl.load(x + place)
    tl.store(out + place, tl.dot(tile, tile))


@triton.jit
def broken(x, out):
    """No kernel at all: a width that is no power of two."""
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
    found = {}
    for name, (kernel, architecture, dtype, warps) in MUTANTS.items():
        options = {"num_warps": warps, "num_stages": 1}
        types = f"*{dtype}", "*fp32"
        specimen = Specimen(name, architecture, dtype, types, ((0,), (1,)), {}, options)
        try:
            resources, error = compile_specimen(specimen, kernel), None
        except Exception as raised:
            resources, error = None, type(raised).__name__
        compiled = Compiled(specimen, resources, error, seconds=0.0, cached=False)
        found[name] = list(violations(compiled))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
