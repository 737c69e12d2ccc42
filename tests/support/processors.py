"""Simulated processors, whose arithmetic NumPy, torch and their libraries can be set to use."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from support import HANG_S

ROOT = Path(__file__).resolve().parents[2]
_FEATURES = tuple(np.show_config(mode="dicts")["SIMD Extensions"].get("found", ()))


class Processor(NamedTuple):
    """Environment variables that select a processor's arithmetic, and the CPU flags it needs."""

    name: str
    variables: Mapping[str, str]
    flags: frozenset[str]

    def unsupported_reason(self) -> str:
        """Return why this machine cannot run its code; empty if it can."""
        missing = sorted(self.flags - _flags_of_this_machine())
        return f"this machine lacks {', '.join(missing)}" if missing else ""


_AVX2 = frozenset({"avx", "avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
_FLAGS = {
    "Haswell": _AVX2,
    "Zen": _AVX2,
    "SkylakeX": _AVX512,
    "Sandybridge": frozenset({"avx"}),
}
# Instruction sets of torch's own kernels; None is the machine's best.
_CAPABILITIES = (None, "default", "avx2")


def _processor(core: str, capability: str | None) -> Processor:
    capability_variable = {"ATEN_CPU_CAPABILITY": capability} if capability else {}
    name = f"OpenBLAS {core}, ATen {capability or 'best'}"
    return Processor(name, {"OPENBLAS_CORETYPE": core, **capability_variable}, _FLAGS[core])


def _whole_machine(core: str, capability: str, instructions: str, numpy_keeps: set[str]):
    """Return a processor on which no library uses instructions above `instructions`."""
    name, variables, flags = _processor(core, capability)
    disabled = " ".join(feature for feature in _FEATURES if feature not in numpy_keeps)
    variables = variables | {
        "MKL_ENABLE_INSTRUCTIONS": instructions,
        "ONEDNN_MAX_CPU_ISA": instructions,
        **({"NPY_DISABLE_CPU_FEATURES": disabled} if disabled else {}),
    }
    return Processor(f"{instructions} machine: {name}", variables, flags)


_AVX2_MACHINE = _whole_machine("Haswell", "avx2", "AVX2", {"X86_V3", "AVX2", "FMA3"})
_AVX_MACHINE = _whole_machine("Sandybridge", "default", "AVX", set())
PROCESSORS = (
    *(_processor(core, capability) for core in _FLAGS for capability in _CAPABILITIES),
    _AVX2_MACHINE,
    _AVX_MACHINE,
)
# The furthest from a machine of today; `make bits` has all of them.
FEW_PROCESSORS = (_AVX_MACHINE,)
_VARIABLES = {name for processor in PROCESSORS for name in processor.variables}


def run_bit_tests(processor: Processor, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tests marked `bits` in a process that uses the arithmetic of `processor`.

    Args:
        processor: Processor of the process and its children.
        arguments: Folders, files and options of pytest.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    # Remove the variables of a calling pytest process.
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTEST_")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-m", "bits", "-p", "no:cacheprovider"),
            *arguments,
        ],
        cwd=ROOT,
        env=environment | processor.variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=HANG_S,
        check=False,
    )


def _flags_of_this_machine() -> set[str]:
    """Return the processor's flags; empty if Linux does not list them as on x86."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return set()
    return {
        flag
        for line in text.splitlines()
        if line.startswith("flags")
        for flag in line.partition(":")[2].split()
    }
