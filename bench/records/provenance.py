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
from dataclasses import replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from bench.cgroup import cpu_limit, memory_limit, usable_cores, usable_memory_bytes
from bench.errors import GitError
from bench.records.git import Repository, find_repository
from bench.records.origin import GitState, Host, Origin
from bench.records.structure import from_json
from bench.records.working_tree import PACKAGES, ROOT, STAMP, changes
from refsys.files import parse_json

# Suffixes of files that can change a measurement.
_SUFFIXES = frozenset({".py", ".json", ".toml"})
_HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
_NOT_SOURCES = frozenset({"sweeps", "baselines", "cli", "asv", "__pycache__"})
_ENVIRONMENT = (
    *("CUDA_", "HIP_", "HSA_", "ROCR_", "NCCL_", "RCCL_", "PYTORCH_", "TORCH", "TRITON_"),
    *("OMP_", "MKL_", "MALLOC_", "FOLDPERF_BACKEND"),
)
# Paths change no measurement, and may name the user.
_PATH_SUFFIXES = ("_DIR", "_HOME", "_PATH", "_ROOT", "_FILE")


@functools.cache
def source_sha256(root: Path = ROOT) -> str:
    """Return the hash of the measuring source files, as they were at the first call.

    These are the files that can change a measurement.
    """
    return current_source_sha256(root)


def current_source_sha256(root: Path = ROOT) -> str:
    """Return the same hash of the files as they are now."""
    paths = [path for package in PACKAGES for path in (root / package).rglob("*")]
    files = {path.relative_to(root).as_posix(): path for path in paths}
    return _digest((name, files[name].read_bytes()) for name in _measured(files))


def commit_source_sha256(repository: Repository, commit: str) -> str:
    """Return the same hash of a commit's source.

    Raises:
        GitError: Git cannot read the commit.
    """
    tree = repository.tree(commit, PACKAGES)
    names = _measured(tree)
    contents = repository.contents([tree[name].object_id for name in names])
    return _digest(zip(names, contents, strict=True))


def _measured(names: Iterable[str]) -> list[str]:
    """Return the files of the packages that can change a measurement, in hash order."""
    paths = [PurePosixPath(name) for name in names]
    sources = [p for p in paths if p.suffix in _SUFFIXES and not _NOT_SOURCES & set(p.parts)]
    order = {package: number for number, package in enumerate(PACKAGES)}
    return [str(path) for path in sorted(sources, key=lambda path: (order[path.parts[0]], path))]


def _digest(files: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0".encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


@functools.cache
def foreign_sha256(module: str) -> str | None:
    """Return the hash of the sources of another package's workload; None for this project's.

    Args:
        module: Full name of the module that defines the workload.
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


def origin() -> Origin:
    """Return the source, machine and software of this process."""
    return Origin(
        git=git_state(),
        source_sha256=source_sha256(),
        host=host(),
        software=software(),
        environment=environment(),
    )


def git_state(root: Path = ROOT) -> GitState:
    """Return the commit of a source tree, dirty if the tree differs from it outside ``results``.

    A stamped copy whose source is no longer what was stamped is dirty. All values are None where
    there is neither a repository nor a stamp. Where git refuses to read the repository, the state
    is the stamp's or unknown, with the message of git as its reason.
    """
    try:
        repository = find_repository(root)
        if repository is not None:
            return repository_state(repository)
    except GitError as error:
        return replace(_stamped_state(root), reason=str(error))
    return _stamped_state(root)


def commit_warning(state: GitState, root: Path = ROOT) -> str:
    """Return the reason why the commit of a tree is unknown, as a sentence; else an empty text."""
    if state.reason:
        return f"the commit of {root} is not read: {state.reason}"
    if state.sha is None:
        return f"{root} has no commit: it has neither a git repository nor a 'foldperf stamp'"
    return ""


def repository_state(repository: Repository) -> GitState:
    """Return the commit that is checked out, dirty if the working tree differs from it.

    Raises:
        GitError: There is no commit yet, or git cannot read it.
    """
    commit = repository.head()
    if commit is None:
        raise GitError(f"{repository.root}: the repository has no commit yet")
    differences = changes(repository, commit)
    text = json.dumps(differences).encode()
    return GitState(
        sha=commit,
        dirty=bool(differences),
        diff_sha256=hashlib.sha256(text).hexdigest() if differences else None,
        commit_time=repository.commit_time(commit),
    )


def _stamped_state(root: Path) -> GitState:
    """Return the state in the stamp of a tree; unknown without a valid stamp."""
    try:
        stamp = parse_json((root / STAMP).read_bytes())
        state = _stamp_fields(stamp)
        source = source_sha256(root)
        if stamp["source_sha256"] != source:
            return replace(state, dirty=True, diff_sha256=source)
        return state
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return GitState()


def _stamp_fields(stamp: dict[str, Any]) -> GitState:
    """Return the state of a commit in a stamp.

    Raises:
        KeyError: A field is missing.
        TypeError: The stamp is not an object.
        ValueError: A field has another type than `foldperf stamp` writes, the time of the commit
            is not a moment, or the hash is not a hash.
    """
    names = ("sha", "dirty", "diff_sha256", "commit_time")
    table = {name: stamp[name] for name in names} | {"reason": None}
    state: GitState = from_json(GitState, table, "stamp")
    if state.sha is None or state.dirty is None or not _HASH.fullmatch(state.sha):
        raise ValueError(f"sha is {state.sha!r:.80}, dirty is {state.dirty}")
    if state.commit_time is not None:
        datetime.fromisoformat(state.commit_time).timestamp()
    return state


def host() -> Host:
    """Return the machine as far as this process can use it, its name hashed."""
    # Imported late: building a package imports this module where torch is not installed.
    from bench.devices.cpu import cpu_name

    containers = (Path("/.dockerenv"), Path("/run/.containerenv"))
    limit = memory_limit()
    return Host(
        os=f"{platform.system()} {platform.release()}",
        cpu=cpu_name(),
        cores=usable_cores(),
        memory_bytes=usable_memory_bytes(),
        cgroup_cores=cpu_limit(),
        cgroup_memory_bytes=None if limit is None else limit.nbytes,
        hostname_hash=hashlib.sha256(platform.node().encode()).hexdigest()[:16],
        container=any(path.exists() for path in containers),
    )


def software() -> dict[str, str | None]:
    """Return the versions of Python, torch and their libraries, and a hash of all packages."""
    import torch

    installed = sorted(
        f"{package.metadata['Name']}=={package.version}"
        for package in distributions()
        if package.metadata
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
    """Return the environment variables that change how torch computes."""
    return {
        name: value
        for name, value in sorted(variables.items())
        if name.startswith(_ENVIRONMENT) and not name.endswith(_PATH_SUFFIXES)
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        module = sys.modules.get(package)
        return getattr(module, "__version__", None)
