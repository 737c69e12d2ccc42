"""What asv does differently here; ``asv.conf.json`` names this file as a plugin.

- A machine has the selectors that exported records have, and Python a version instead of a path, so
  that both are in the same graphs.
- The list of benchmarks keeps what was exported, which a run of another sweep would hide.
- Result files are strict JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def setup() -> None:
    """Called by asv when it loads the plugin."""
    from asv.benchmarks import Benchmarks
    from asv.environment import ExistingEnvironment
    from asv.machine import Machine
    from asv.results import Results

    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from bench.asv.export import complete, make_strict

    load, save_list, save_results = Machine.load, Benchmarks.save, Results.save

    def load_with_selectors(*arguments: Any, **options: Any) -> Any:
        machine = load(*arguments, **options)
        vars(machine).update(_selectors())
        return machine

    def save_and_complete(benchmarks: Any) -> None:
        save_list(benchmarks)
        complete(Path(benchmarks._conf.results_dir))

    def save_strictly(results: Any, folder: str) -> None:
        save_results(results, folder)
        make_strict(Path(folder))

    Machine.load = staticmethod(load_with_selectors)
    Benchmarks.save = save_and_complete
    Results.save = save_strictly
    # Of `--python=same`, which is what the selectors are of.
    ExistingEnvironment.python = "{}.{}".format(*sys.version_info)


def _selectors() -> dict[str, str]:
    """Those of this machine, asked in another process: asv itself needs no torch.

    Raises:
        UserError: asv's; the machine cannot be looked at.
    """
    from asv.util import UserError

    done = subprocess.run(
        [sys.executable, "-m", "bench.asv.selectors"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"this machine's device cannot be told: {reason}")
    found: dict[str, str] = json.loads(done.stdout)
    return found
