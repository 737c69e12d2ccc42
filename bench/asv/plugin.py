"""Changes to asv for this project; ``asv.conf.json`` names this file as a plugin.

- Figures are filed under a commit only if the measured source is that commit's.
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
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    forget_other_repositories()
    _check_commits()
    _add_selectors()
    _keep_benchmarks()
    _write_strict_results()


def forget_other_repositories() -> None:
    """Remove variables such as ``GIT_DIR``: asv itself asks git about this project."""
    from bench.records.git import git_environment

    for name in set(os.environ) - set(git_environment(os.environ)):
        # With these asv is allowed to read the repository.
        if not name.startswith("GIT_CONFIG_"):
            del os.environ[name]


def _check_commits() -> None:
    """Make ``asv run`` refuse a commit whose source is not the measured one."""
    import asv.commands.run as asv_run

    run, run_benchmarks = asv_run.Run.run.__func__, asv_run.run_benchmarks

    def run_after_check(cls: Any, *arguments: Any, **options: Any) -> Any:
        # Before asv resolves the name, which it does with a traceback, and before discovery.
        _require_commit(options.get("set_commit_hash"))
        return run(cls, *arguments, **options)

    def run_benchmarks_of_commit(*arguments: Any, results: Any, **options: Any) -> Any:
        # Also of the environments that asv builds for commits: the suite imports this folder.
        _require_commit(results.commit_hash)
        measured = run_benchmarks(*arguments, results=results, **options)
        # The source may have been edited in the meantime.
        _require_commit(results.commit_hash)
        return measured

    asv_run.Run.run = classmethod(run_after_check)
    asv_run.run_benchmarks = run_benchmarks_of_commit


def _require_commit(name: str | None) -> None:
    """Check that the source is that of a commit; asv saves nothing for None.

    Raises:
        UserError: asv's; the source differs, or there is no such commit.
    """
    from asv.util import UserError

    from bench.errors import BenchError
    from bench.records.working_tree import require_commit

    if name is None:
        return
    try:
        require_commit(name, ROOT)
    except BenchError as error:
        raise UserError(
            f"foldperf: nothing is filed under {name}: {error}; check that commit out, or leave "
            "--set-commit-hash out to try the suite without saving"
        ) from None


def _add_selectors() -> None:
    from asv.environment import ExistingEnvironment
    from asv.machine import Machine

    load = Machine.load

    def load_with_selectors(*arguments: Any, **options: Any) -> Any:
        machine = load(*arguments, **options)
        vars(machine).update(_selectors())
        return machine

    Machine.load = staticmethod(load_with_selectors)
    # The selectors are those of `--python=same`.
    ExistingEnvironment.python = "{}.{}".format(*sys.version_info)


def _keep_benchmarks() -> None:
    from asv.benchmarks import Benchmarks

    from bench.asv.export import complete

    save = Benchmarks.save

    def save_and_complete(benchmarks: Any) -> None:
        save(benchmarks)
        complete(Path(benchmarks._conf.results_dir))

    Benchmarks.save = save_and_complete


def _write_strict_results() -> None:
    from asv.results import Results

    from bench.asv.export import make_strict

    save = Results.save

    def save_strictly(results: Any, folder: str) -> None:
        save(results, folder)
        make_strict(Path(folder))

    Results.save = save_strictly


def _selectors() -> dict[str, str]:
    """Selectors of this machine, from another process: asv itself needs no torch.

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
        raise UserError(f"this machine's device cannot be determined: {reason}")
    selectors: dict[str, str] = json.loads(done.stdout)
    return selectors
