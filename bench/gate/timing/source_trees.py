"""Source trees that the timing gate measures, side by side in a folder of their own.

Both are copies, so that an edit during the gate affects neither, and both lie at paths of the
same length, since the length of paths and variables alone can move a program's speed (Mytkowicz
et al., ASPLOS 2009). The repository is read and never written to.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.errors import GitError, UsageError
from bench.records.git import GITLINK, LINK, Repository
from bench.records.working_tree import PACKAGES, ROOT, package_changes

_DEFAULT_BRANCHES = ("origin/HEAD", "origin/main", "origin/master", "main", "master")
_WAY_OUT = "name the folder of a source tree with --against"
_IGNORED = shutil.ignore_patterns("__pycache__")


@dataclass(frozen=True, slots=True)
class Trees:
    """Two folders to import from.

    Attributes:
        baseline: Source tree of the baseline.
        candidate: Source tree of the candidate.
        against: Name of the baseline in messages: a commit with its name, or a folder.
    """

    baseline: Path
    candidate: Path
    against: str


@contextmanager
def source_trees(against: str | None, root: Path = ROOT) -> Iterator[Trees]:
    """Make both trees, and remove them when the context ends.

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
            baseline = str(against)
        else:
            reference = default_reference(root) if against is None else against
            repository = _repository(root)
            baseline = _export(repository, reference, old)
        _copy(root, new)
        yield Trees(old, new, baseline)


def default_reference(root: Path = ROOT) -> str:
    """Return the commit that a candidate is compared with by default.

    Raises:
        UsageError: `root` is not a git repository, or git refuses to read it.
    """
    repository = _repository(root)
    try:
        head = repository.head()
        if package_changes(repository, head):
            return "HEAD"
    except GitError as error:
        raise UsageError(f"{error}; {_WAY_OUT}") from None
    for branch in _DEFAULT_BRANCHES:
        with suppress(GitError):
            base = repository.ask("merge-base", "HEAD", branch).decode().strip()
            if base != head:
                return base
    return "HEAD~1"


def _repository(root: Path) -> Repository:
    try:
        return Repository(root)
    except GitError as error:
        raise UsageError(f"{error}; {_WAY_OUT}") from None


def _export(repository: Repository, reference: str, folder: Path) -> str:
    """Write a commit's packages to a folder, and return the commit's name.

    Files are written as they are stored: attributes such as ``export-ignore`` do not count.
    """
    try:
        commit = repository.resolve(reference)
    except GitError as error:
        raise UsageError(
            f"--against {reference}: neither a commit of {repository.root} nor the folder of a "
            f"source tree: {error}"
        ) from None
    try:
        tree = repository.tree(commit, PACKAGES)
        for package in PACKAGES:
            if not any(path.startswith(f"{package}/") for path in tree):
                raise UsageError(f"--against {reference}: the commit has no {package}")
        files = {path: entry for path, entry in tree.items() if entry.mode != GITLINK}
        contents = repository.contents([entry.object_id for entry in files.values()])
        for (path, entry), data in zip(files.items(), contents, strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if entry.mode == LINK:
                (folder / path).symlink_to(os.fsdecode(data))
            else:
                (folder / path).write_bytes(data)
    except GitError as error:
        raise UsageError(f"--against {reference}: {error}") from None
    return commit[:12] if commit.startswith(reference) else f"{reference} ({commit[:12]})"


def _copy(source: Path, folder: Path) -> None:
    try:
        for package in PACKAGES:
            shutil.copytree(source / package, folder / package, ignore=_IGNORED)
    except OSError as error:
        raise UsageError(f"{source}: cannot be copied: {error}") from None
