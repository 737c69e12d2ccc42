"""Fixtures that several folders share."""

import fcntl
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

# Small tensors gain nothing from threads, and lose much where cores are shared. Read by torch when
# it is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Whether Triton's own library is interpreted is decided when it is imported, which torch does.
# Processes that a test starts are to compile, if anything, and so is tests/gpu.
if not any("tests/gpu" in argument for argument in sys.argv[1:]):
    os.environ["TRITON_INTERPRET"] = "1"
    import_module("triton.language")
    del os.environ["TRITON_INTERPRET"]

import pytest
from hypothesis import settings
from support import HANG_S

from bench.cli import main
from refsys.data.fetch import packages, prepared_sources
from refsys.data.preparation import prepare
from refsys.data.store import Store
from refsys.home import package_cache

# The first example of a test may pay for an import; the same examples are drawn every time.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def sources():
    """The fetched structures by entry."""
    found = packages(package_cache())
    for package in found:
        assert package.is_cached(), f"{package.name} is not fetched: run 'foldperf fetch --all'"
    return {source.entry: source for package in found for source in package.sources}


@pytest.fixture(scope="session")
def store(sources, tmp_path_factory):
    """A store of the core packages."""
    del sources
    store = Store(tmp_path_factory.mktemp("store"))
    core = [package for package in packages(package_cache()) if package.core]
    for files in prepared_sources(core):
        prepare(store, files)
    return store


@pytest.fixture(scope="session")
def everything(sources, tmp_path_factory):
    """A store of all packages, as the command line prepares them; all workers of a run read it."""
    del sources
    folder = tmp_path_factory.getbasetemp()
    # A worker's folder is in that of the run.
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    store, finished = Store(folder / "everything"), folder / "everything-is-prepared"
    with (folder / "everything.lock").open("w") as lock, redirect_stdout(io.StringIO()):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            assert main(["prepare", "--store", str(store.root)]) == 0
            finished.touch()
    return store


@pytest.fixture
def foldperf(tmp_path):
    """Runs the command line as a process in a folder of its own, with extra import paths."""

    def run(*arguments, paths=(), check=None, **environment):
        search = os.pathsep.join(map(str, (*paths, ROOT)))
        done = subprocess.run(
            [sys.executable, "-m", "bench", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": search} | environment,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=False,
        )
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run
