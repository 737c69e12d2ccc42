"""Fixtures that several folders share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from refsys.data.fetch import packages
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
        assert package.is_cached(), f"{package.name} is not fetched: run 'foldperf fetch' first"
    return {source.entry: source for package in found for source in package.sources}


@pytest.fixture(scope="session")
def store(sources, tmp_path_factory):
    """A store of everything fetched."""
    store = Store(tmp_path_factory.mktemp("store"))
    for source in sources.values():
        alignments = {chain: member.cached for chain, member in source.alignments.items()}
        store.prepare(source.structure.cached, alignments)
    return store


@pytest.fixture
def foldperf(tmp_path):
    """Runs the command line as a process in a folder of its own, with extra import paths."""

    def run(*arguments, paths=(), check=None, timeout=300, **environment):
        search = os.pathsep.join(map(str, (*paths, ROOT)))
        done = subprocess.run(
            [sys.executable, "-m", "bench", *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": search} | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run
