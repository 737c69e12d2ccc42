"""Does it learn? A run over a fixed set of draws, and how far its loss falls.

A model that trains right can learn a few draws by heart; one whose gradients, losses or optimizer
are wrong cannot. The record of such a run says where it comes from, like every other.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.records import provenance

if TYPE_CHECKING:
    from refsys.run_config import RunConfig

SCHEMA = "foldperf.learning/1"
RECORD = "learning.json"


def learning_record(
    config: "RunConfig", log: Path, started: datetime, loss: str = "diffusion"
) -> dict[str, Any]:
    """The record of a run over repeated draws.

    Args:
        config: Of the run; it repeats its draws.
        log: Its log, a line a step.
        started: When it began.
        loss: The part of the loss that is to fall.

    Returns:
        Provenance, configuration, ``curve`` (a point for each pass over all draws: steps done, mean
        of every part of the loss, seconds) and ``ratio``: the last pass's loss over the first's.
    """
    steps = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    passes = [
        steps[first : first + config.repeat]
        for first in range(0, len(steps) - config.repeat + 1, config.repeat)
    ]
    curve = [_point(one) for one in passes]
    return {
        "schema": SCHEMA,
        "started_at": started.isoformat(timespec="milliseconds"),
        "duration_s": (datetime.now(UTC) - started).total_seconds(),
        "config": asdict(config),
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
