"""Learning check: training over a fixed set of samples, and the decrease of its loss.

A model that trains correctly can memorize a few samples; a model with wrong gradients, losses or
optimizer cannot. The record of such a run has its origin, like every record.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import provenance
from refsys.options import values_of

if TYPE_CHECKING:
    from refsys.run_config import RunConfig

SCHEMA = "foldperf.learning/1"
RECORD = "learning.json"


def learning_record(
    config: "RunConfig", log: Path, started: datetime, loss: str = "diffusion"
) -> dict[str, Any]:
    """Return the record of a run over repeated samples.

    Args:
        config: Configuration of the run, which repeats its samples.
        log: Log of the run, a line a step.
        started: Start of the run.
        loss: Part of the loss that is to fall.

    Returns:
        Provenance, configuration, ``curve`` (a point for each pass over all draws: steps done, mean
        of every part of the loss, seconds) and ``ratio``: the last pass's loss over the first's.
    """
    steps = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    passes = [
        steps[first : first + config.data.repeat]
        for first in range(0, len(steps) - config.data.repeat + 1, config.data.repeat)
    ]
    curve = [_point(one) for one in passes]
    return {
        "schema": SCHEMA,
        "started_at": started.isoformat(timespec="milliseconds"),
        "duration_s": (datetime.now(UTC) - started).total_seconds(),
        "config": values_of(config) | {"entries": list(config.data.entries)},
        "steps": len(steps),
        "loss": loss,
        "curve": curve,
        "ratio": curve[-1]["losses"][loss] / curve[0]["losses"][loss],
        **provenance.origin().as_dict(),
    }


def _point(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = steps[0]["losses"]
    return {
        "steps": steps[-1]["step"] + 1,
        "losses": {n: sum(step["losses"][n] for step in steps) / len(steps) for n in names},
        "seconds": sum(sum(step["seconds"].values()) for step in steps),
    }
