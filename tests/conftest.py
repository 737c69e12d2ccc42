"""Fixtures that several folders share."""

import fcntl
import gc
import io
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stdout
from importlib import import_module
from multiprocessing import active_children
from pathlib import Path

# Small tensors gain nothing from threads, and lose much where cores are shared. Read by torch when
# it is imported, here and in every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The key of torch.compile's cache leaves out the vector instructions that this variable allows:
# code for others would be taken from it, and does not compile.
_CAPABILITY = os.environ.get("ATEN_CPU_CAPABILITY", "best")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(
    Path(tempfile.gettempdir(), f"foldperf-tests-{os.getuid()}", f"inductor-{_CAPABILITY}")
)
# A pool of compiling processes would import torch in each, for a few small functions.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
# In a git hook these name the hook's repository, in which tests would then commit.
for _name in list(os.environ):
    if _name.startswith("GIT_") and not _name.startswith("GIT_CONFIG_"):
        del os.environ[_name]
ROOT = Path(__file__).resolve().parent.parent

# Whether a kernel is interpreted is decided when it is imported: Triton's own library by torch,
# ours by the first test that needs one. Processes that a test starts are to compile, if anything,
# and so is tests/gpu.
if not any("tests/gpu" in argument for argument in sys.argv[1:]):
    os.environ["TRITON_INTERPRET"] = "1"
    import_module("triton.language")
    for _file in (*ROOT.glob("refsys/ops/*/kernels.py"), ROOT / "workloads/calibration_kernels.py"):
        import_module(".".join(_file.relative_to(ROOT).with_suffix("").parts))
    del os.environ["TRITON_INTERPRET"]

import pytest
from hypothesis import settings
from support.command_server import CommandServer

from bench.cli import main
from refsys.call_stack import call_with_room
from refsys.data.prepare.entries import prepare
from refsys.data.prepare.fetch import packages, prepared_sources
from refsys.data.store.store import Store
from refsys.home import package_cache

# The first example of a test may pay for an import. The same examples are generated every time, so
# that a law that holds for a third of the usual hundred gains little from the others.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Run a test with room on the call stack, at whose edges interpreted kernels are slower."""
    runner = item.config.pluginmanager.get_plugin("runner")
    return call_with_room(runner.pytest_runtest_protocol, item, nextitem)


def pytest_collection_finish():
    """Exempt what was imported from garbage collection, which would visit it a thousand times."""
    gc.collect()
    gc.freeze()


# Longest time in which a pool that is no longer waited for ends.
ENDING_S = 10


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test():
    """Fail a test whose processes go on: their end would disturb a later one."""
    before = set(active_children())
    yield
    if not set(active_children()) - before:
        return
    # Some are held by a cycle of references.
    gc.collect()
    deadline = time.monotonic() + ENDING_S
    # Not joined: the thread of a pool may do that.
    while left := set(active_children()) - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.fixture(scope="session")
def sources():
    """The fetched structures by entry."""
    found = packages(package_cache())
    for package in found:
        assert package.is_cached(), f"{package.name} is not fetched: run 'foldperf fetch --all'"
    return {source.entry: source for package in found for source in package.sources}


@pytest.fixture(scope="session")
def build_once(tmp_path_factory):
    """Return a function that builds a folder, once for all processes of the run."""
    folder = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own in that of the run.
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def build_once(name, build):
        """Return the folder `name`, filled by `build(folder)`; tests only read it."""
        path = folder / name
        with (folder / f"{name}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                unfinished = folder / f"{name}.unfinished"
                build(unfinished)
                unfinished.rename(path)
        return path

    return build_once


@pytest.fixture(scope="session")
def store(sources, build_once):
    """A store of the core packages."""
    del sources

    def build(folder):
        core = [package for package in packages(package_cache()) if package.core]
        for files in prepared_sources(core):
            prepare(Store(folder), files)

    return Store(build_once("store", build))


@pytest.fixture(scope="session")
def everything(store, build_once):
    """A store of all packages, as the command line prepares them beside those of the core."""

    def build(folder):
        shutil.copytree(store.root, folder)
        with redirect_stdout(io.StringIO()):
            # Processes would import the libraries and read the dictionary of components again.
            assert main(["prepare", "--workers", "0", "--store", str(folder)]) == 0

    return Store(build_once("everything", build))


@pytest.fixture(scope="session")
def command_server():
    """Processes of the command line that need no time to import its libraries."""
    with CommandServer() as server:
        yield server


@pytest.fixture
def foldperf(tmp_path, command_server):
    """Runs the command line as a process in a folder of its own, with extra import paths."""

    def run(*arguments, paths=(), check=None, **environment):
        done = command_server.run(arguments, folder=tmp_path, paths=paths, **environment)
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run
