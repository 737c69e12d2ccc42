"""Where a record comes from: commit, source, host, software, environment.

A copy of the source without its ``.git`` may carry a stamp, written by ``foldperf stamp``.
"""

import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.devices.cpu import cpu_name

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".foldperf-commit.json"
# What can change a measurement. Analysis, results and tests cannot.
_SOURCES = ("refsys", "workloads", "bench")
_SUFFIXES = frozenset({".py", ".json", ".toml"})
_NOT_SOURCES = frozenset({"sweeps", "baselines", "cli", "asv", "__pycache__"})
_ENVIRONMENT = (
    *("CUDA_", "HIP_", "HSA_", "ROCR_", "NCCL_", "RCCL_", "PYTORCH_", "TORCH", "TRITON_"),
    *("OMP_", "MKL_", "MALLOC_", "FOLDPERF_BACKEND"),
)
# Variables that say where something lies change no measurement, and tell of the user.
_PLACES = ("_DIR", "_HOME", "_PATH", "_ROOT", "_FILE")


@functools.cache
def source_sha256(root: Path = ROOT) -> str:
    """Hash of the source files that can change a measurement."""
    digest = hashlib.sha256()
    for package in _SOURCES:
        for path in sorted((root / package).rglob("*")):
            relative = path.relative_to(root)
            if path.suffix in _SUFFIXES and not _NOT_SOURCES & set(relative.parts):
                digest.update(f"{relative.as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def foreign_sha256(module: str) -> str | None:
    """Hash of the sources of another package's workload; None if the module is our own.

    Args:
        module: Full name of the module that defines it.
    """
    package = module.partition(".")[0]
    spec = find_spec(package)
    if package in _SOURCES or spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    paths += [Path(spec.origin)] if spec.origin and not paths else []
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def everything() -> dict[str, Any]:
    """All of it: what a record of its own kind says of where it comes from."""
    return {
        "git": git_state(),
        "source_sha256": source_sha256(),
        "host": host(),
        "software": software(),
        "environment": environment(),
    }


def git_state(root: Path = ROOT) -> dict[str, Any]:
    """Commit, and whether the tree differs from it outside ``results``.

    A stamped copy whose source is no longer what was stamped is dirty. All values are None where
    there is neither a repository nor a stamp.
    """
    if (root / ".git").exists():
        try:
            return _from_git(root)
        except (OSError, subprocess.SubprocessError):
            pass
    try:
        stamp = json.loads((root / STAMP).read_text(encoding="utf-8"))
        state = {key: stamp[key] for key in ("sha", "dirty", "diff_sha256", "commit_time")}
        source = source_sha256(root)
        if stamp["source_sha256"] != source:
            state |= {"dirty": True, "diff_sha256": source}
        return state
    except (OSError, ValueError, KeyError, TypeError):
        return dict.fromkeys(("sha", "dirty", "diff_sha256", "commit_time"))


def _from_git(root: Path) -> dict[str, Any]:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=30
        ).stdout.strip()

    outside = ("--", ".", ":(exclude)results")
    changed = git("status", "--porcelain", *outside)
    diff = git("diff", "HEAD", *outside) + changed if changed else ""
    return {
        "sha": git("rev-parse", "HEAD"),
        "dirty": bool(changed),
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if changed else None,
        "commit_time": git("show", "--no-patch", "--format=%cI", "HEAD"),
    }


def host() -> dict[str, Any]:
    """The machine, its name hashed."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    containers = (Path("/.dockerenv"), Path("/run/.containerenv"))
    return {
        "os": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
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
