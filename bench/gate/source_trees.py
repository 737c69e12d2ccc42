"""The two source trees that the timing gate measures, side by side in a folder of their own.

Both are copies, so that an edit during the gate meets neither side, and both lie at paths of the
same length, since the length of paths and variables alone can move a program's speed (Mytkowicz
et al., ASPLOS 2009). The repository is read and never written to.
"""

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError
from bench.provenance import ROOT

# What a measuring process imports.
PACKAGES = ("refsys", "workloads", "bench")
_DEFAULT_BRANCHES = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
_IGNORED = shutil.ignore_patterns("__pycache__")


@dataclass(frozen=True, slots=True)
class Trees:
    """Two folders to import from.

    Attributes:
        baseline: What is compared with.
        candidate: What is judged.
        against: The baseline for people: a commit with its name, or a folder.
    """

    baseline: Path
    candidate: Path
    against: str


@contextmanager
def source_trees(against: str | None, root: Path = ROOT) -> Iterator[Trees]:
    """Makes both trees, and removes them at the end however it comes.

    Args:
        against: A source tree's folder, or anything that git takes for a commit. If None: HEAD
            where the tree differs from it, else where the branch left the default branch, else
            the commit before.
        root: The candidate.

    Raises:
        UsageError: there is no such folder or commit, or it lacks the packages.
    """
    with tempfile.TemporaryDirectory(
        prefix="foldperf-gate-",
        ignore_cleanup_errors=True,  # they come after the verdict
    ) as name:
        old, new = Path(name, "old"), Path(name, "new")
        if against == "":
            raise UsageError("--against is empty: name a commit or the folder of a source tree")
        if against is not None and (Path(against) / PACKAGES[0]).is_dir():
            _copy(Path(against), old)
            told = str(against)
        else:
            if against is None:
                against = default_reference(root)
            told = _export(root, against, old)
        _copy(root, new)
        yield Trees(old, new, told)


def default_reference(root: Path = ROOT) -> str:
    """The commit that a candidate is compared with where nobody says another.

    Raises:
        UsageError: `root` is not a git repository, or it has one commit alone.
    """
    if _git(root, "status", "--porcelain", "--", *PACKAGES).strip():
        return "HEAD"
    head = _git(root, "rev-parse", "HEAD").strip()
    for branch in _DEFAULT_BRANCHES:
        base = _ask_git(root, "merge-base", "HEAD", branch)
        if base and base.strip() != head:
            return base.strip()
    return "HEAD~1"


def _export(root: Path, reference: str, folder: Path) -> str:
    """Writes a commit's packages to a folder, past the index and the working tree."""
    sha = _ask_git(root, "rev-parse", "--verify", "--end-of-options", f"{reference}^{{commit}}")
    if sha is None:
        _git(root, "rev-parse", "HEAD")  # says so if this is no repository
        raise UsageError(
            f"--against {reference}: neither a commit of {root} nor the folder of a source tree"
        )
    sha = sha.strip()
    archive = subprocess.run(
        ["git", "-C", str(root), "archive", "--format=tar", sha, "--", *PACKAGES],
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        raise UsageError(f"--against {reference}: {_said(archive.stderr)}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return sha[:12] if sha.startswith(reference) else f"{reference} ({sha[:12]})"


def _copy(source: Path, folder: Path) -> None:
    try:
        for package in PACKAGES:
            shutil.copytree(source / package, folder / package, ignore=_IGNORED)
    except OSError as error:
        raise UsageError(f"{source}: cannot be copied: {error}") from None


def _git(root: Path, *arguments: str) -> str:
    # Without optional locks, 'git status' does not refresh the index on the way.
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    found = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if found.returncode:
        raise UsageError(
            f"{root}: git {arguments[0]}: {_said(found.stderr.encode())}; name the folder of a "
            "source tree with --against"
        )
    return found.stdout


def _ask_git(root: Path, *arguments: str) -> str | None:
    try:
        return _git(root, *arguments)
    except UsageError:
        return None


def _said(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it failed and said nothing"
