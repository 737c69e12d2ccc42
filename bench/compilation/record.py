"""Record of a compilation: resources of all kernels, with provenance."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from bench.compilation.compiler import Compiled
from bench.compilation.limits import violations
from bench.records import provenance

SCHEMA = "foldperf.kernels/1"
RECORD = "kernels.json"


def kernel_record(kernels: Sequence[Compiled], started: datetime) -> dict[str, Any]:
    """Return the record of a compilation.

    Args:
        kernels: Results, one for each kernel and architecture.
        started: Start of the compilation.

    Returns:
        Provenance, and ``kernels``: for each the name, architecture, dtype, row width (None if it
        has none), constants, launch options, resources (None if it does not compile) and
        violations.
    """
    return {
        "schema": SCHEMA,
        "started_at": started.isoformat(timespec="milliseconds"),
        "duration_s": (datetime.now(UTC) - started).total_seconds(),
        "kernels": [_kernel(compiled) for compiled in kernels],
        **provenance.origin().as_dict(),
    }


def _kernel(compiled: Compiled) -> dict[str, Any]:
    specimen = compiled.specimen
    return {
        "kernel": specimen.kernel,
        "architecture": specimen.architecture,
        "dtype": specimen.dtype,
        "width": specimen.constants.get("WIDTH"),
        "constants": dict(specimen.constants),
        "options": dict(specimen.options),
        "resources": compiled.resources and asdict(compiled.resources),
        "violations": list(violations(compiled)),
    }
