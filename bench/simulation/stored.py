"""Form of a trace in a file: JSON, in an order that does not depend on the run."""

import gzip
import json
from dataclasses import astuple
from typing import Any

from refsys.costs.collectives import CollectiveKey, Communication
from refsys.costs.storages import Peak
from refsys.costs.trace import Cost, Origin, Trace

_FORMAT = 1


def to_bytes(trace: Trace) -> bytes:
    """Return a trace as compressed JSON; equal traces give equal bytes."""
    table = {
        "format": _FORMAT,
        "costs": _rows(trace.costs),
        "peak": _peak(trace.peak),
        "phase_peaks": {phase: _peak(peak) for phase, peak in trace.phase_peaks.items()},
        "unpriced": list(trace.unpriced),
        "communication": _rows(trace.communication),
        "kernels": sorted([*key, count] for key, count in trace.kernels.items()),
        "host_bytes": trace.host_bytes,
        "left_out": trace.left_out,
    }
    text = json.dumps(table, separators=(",", ":"))
    return gzip.compress(text.encode(), compresslevel=6, mtime=0)


def from_bytes(content: bytes) -> Trace:
    """Return the trace in a file's content, the inverse of `to_bytes`.

    Raises:
        ValueError: the content is damaged or of another format.
    """
    try:
        table = json.loads(gzip.decompress(content))
        if table["format"] != _FORMAT:
            raise ValueError(f"the format is {table['format']!r}, not {_FORMAT}")
        return Trace(
            {Origin(*key): Cost(*values) for key, values in table["costs"]},
            _as_peak(table["peak"]),
            {phase: _as_peak(peak) for phase, peak in table["phase_peaks"].items()},
            tuple(table["unpriced"]),
            {CollectiveKey(*k): Communication(*values) for k, values in table["communication"]},
            {(phase, kernel): count for phase, kernel, count in table["kernels"]},
            table["host_bytes"],
            table["left_out"],
        )
    except (OSError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a trace: {error!r}") from None


def _rows(table: dict[Any, Any]) -> list[Any]:
    return sorted([list(key), list(astuple(value))] for key, value in table.items())


def _peak(peak: Peak) -> list[Any]:
    by_origin = sorted([*key, nbytes] for key, nbytes in peak.by_origin.items())
    return [peak.nbytes, dict(sorted(peak.by_state.items())), by_origin]


def _as_peak(values: list[Any]) -> Peak:
    nbytes, by_state, by_origin = values
    return Peak(nbytes, by_state, {(s, m, o): size for s, m, o, size in by_origin})
