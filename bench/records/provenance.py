"""Origin of a record: commit, source, host, software, environment.

A copy of the source without its ``.git`` may carry a stamp, written by ``foldperf stamp``.
"""

import functools
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from bench.cgroup import cpu_limit, memory_limit, usable_cores, usable_memory_bytes
from bench.errors import GitError
from bench.records.git import Repository, find_repository
from bench.records.working_tree import PACKAGES, ROOT, STAMP, changes
from refsys.files import parse_json

# Of the packages, files that can change a measurement.
_SUFFIXES = frozenset({".py", ".json", ".toml"})
_HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_NOT_SOURCES = frozenset({"sweeps", "baselines", "cli", "asv", "__pycache__"})
_ENVIRONMENT = (
    *("CUDA_", "HIP_", "HSA_", "ROCR_", "NCCL_", "RCCL_", "PYTORCH_", "TORCH", "TRITON_"),
    *("OMP_", "MKL_", "MALLOC_", "FOLDPERF_BACKEND"),
)
# Variables that say where something lies change no measurement, and tell of the user.
_PLACES = ("_DIR", "_HOME", "_PATH", "_ROOT", "_FILE")


@functools.cache
def source_sha256(root: Path = ROOT) -> str:
    """Hash of the source files that can change a measurement, as they were at the first call."""
    return current_source_sha256(root)


def current_source_sha256(root: Path = ROOT) -> str:
    """The same hash of the files as they are now."""
    paths = [path for package in PACKAGES for path in (root / package).rglob("*")]
    files = {path.relative_to(root).as_posix(): path for path in paths}
    return _digest((name, files[name].read_bytes()) for name in _measured(files))


def commit_source_sha256(repository: Repository, commit: str) -> str:
    """The same hash of a commit's source.

    Raises:
        GitError: git cannot read the commit.
    """
    tree = repository.tree(commit, PACKAGES)
    names = _measured(tree)
    contents = repository.contents([tree[name].object_id for name in names])
    return _digest(zip(names, contents, strict=True))


def _measured(names: Iterable[str]) -> list[str]:
    """Return the files of the packages that can change a measurement, in hash order."""
    paths = [PurePosixPath(name) for name in names]
    chosen = [p for p in paths if p.suffix in _SUFFIXES and not _NOT_SOURCES & set(p.parts)]
    order = {package: number for number, package in enumerate(PACKAGES)}
    return [str(path) for path in sorted(chosen, key=lambda path: (order[path.parts[0]], path))]


def _digest(files: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


@functools.cache
def foreign_sha256(module: str) -> str | None:
    """Hash of the sources of another package's workload; None if the module is our own.

    Args:
        module: Full name of the module that defines it.
    """
    package = module.partition(".")[0]
    spec = find_spec(package)
    if package in PACKAGES or spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    paths += [Path(spec.origin)] if spec.origin and not paths else []
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def everything() -> dict[str, Any]:
    """All of it, as records have it that are not of cases."""
    return {
        "git": git_state(),
        "source_sha256": source_sha256(),
        "host": host(),
        "software": software(),
        "environment": environment(),
    }


def git_state(root: Path = ROOT) -> dict[str, Any]:
    """Commit of a source tree, and whether the tree differs from it outside ``results``.

    A stamped copy whose source is no longer what was stamped is dirty. All values are None where
    there is neither a repository nor a stamp. Where git refuses to read the repository, the stamp's
    values or None are accompanied by its refusal as ``reason``.
    """
    try:
        repository = find_repository(root)
        if repository is not None:
            return repository_state(repository)
    except GitError as error:
        return _stamped_state(root) | {"reason": str(error)}
    return _stamped_state(root)


def commit_warning(state: dict[str, Any], root: Path = ROOT) -> str:
    """A sentence on why git's state of a source tree names no commit of its own; else empty."""
    if reason := state.get("reason"):
        return f"the commit of {root} is not read: {reason}"
    if state["sha"] is None:
        return f"{root} has no commit: it has neither a git repository nor a 'foldperf stamp'"
    return ""


def repository_state(repository: Repository) -> dict[str, Any]:
    """The commit that is checked out, and whether the working tree differs from it.

    Raises:
        GitError: there is no commit yet, or git cannot read it.
    """
    commit = repository.head()
    if commit is None:
        raise GitError(f"{repository.root}: the repository has no commit yet")
    changed = changes(repository, commit)
    diff = json.dumps(changed).encode()
    return {
        "sha": commit,
        "dirty": bool(changed),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if changed else None,
        "commit_time": repository.commit_time(commit),
    }


def _stamped_state(root: Path) -> dict[str, Any]:
    try:
        stamp = parse_json((root / STAMP).read_bytes())
        state = _stamp_fields(stamp)
        source = source_sha256(root)
        if stamp["source_sha256"] != source:
            state |= {"dirty": True, "diff_sha256": source}
        return state
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return dict.fromkeys(("sha", "dirty", "diff_sha256", "commit_time"))


def _stamp_fields(stamp: dict[str, Any]) -> dict[str, Any]:
    """Return what a stamp says of a commit.

    Raises:
        KeyError: a field is missing.
        TypeError: the stamp or a field is of another type than `foldperf stamp` writes.
        ValueError: the time of the commit is no moment, or the hash no hash.
    """
    types = {"sha": str, "dirty": bool, "diff_sha256": str | None, "commit_time": str | None}
    state = {key: stamp[key] for key in types}
    for key, expected in types.items():
        if not isinstance(state[key], expected):
            raise TypeError(f"{key} is {state[key]!r:.80}")
    if not _HASH.fullmatch(state["sha"]):
        raise ValueError(f"sha is {state['sha']!r:.80}")
    if state["commit_time"] is not None:
        datetime.fromisoformat(state["commit_time"]).timestamp()
    return state


def host() -> dict[str, Any]:
    """The machine as far as this process can use it, its name hashed."""
    # Here: building a package imports this module where torch is not installed.
    from bench.devices.cpu import cpu_name

    containers = (Path("/.dockerenv"), Path("/run/.containerenv"))
    limit = memory_limit()
    return {
        "os": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_bytes": usable_memory_bytes(),
        "cgroup_cores": cpu_limit(),
        "cgroup_memory_bytes": None if limit is None else limit.nbytes,
        "hostname_hash": hashlib.sha256(platform.node().encode()).hexdigest()[:16],
        "container": any(path.exists() for path in containers),
    }


def software() -> dict[str, Any]:
    """Versions of what computes, and a hash of everything that is installed."""
    import torch

    installed = sorted(
        f"{found.metadata['Name']}=={found.version}" for found in distributions() if found.metadata
    )
    nccl = None
    if torch.cuda.is_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "nccl": nccl,
        "packages_sha256": hashlib.sha256("\n".join(installed).encode()).hexdigest(),
    }


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment variables that change how torch computes."""
    return {
        name: value
        for name, value in sorted(variables.items())
        if name.startswith(_ENVIRONMENT) and not name.endswith(_PLACES)
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        module = sys.modules.get(package)
        return getattr(module, "__version__", None)
