"""Differences of a source tree from a commit, by the content of files.

Git's index is not asked: files marked ``assume-unchanged`` or ``skip-worktree`` would be equal by
definition. Every file of the commit is read and hashed as git hashes it, without filters, and every
other file counts that the commit's ``.gitignore`` does not name, a source file even then.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench.errors import GitError, UsageError
from bench.records.git import GITLINK, LINK, Repository, TreeEntry, find_repository

ROOT = Path(__file__).resolve().parents[2]
# The packages that a measuring process imports.
PACKAGES = ("refsys", "workloads", "bench")
STAMP = ".foldperf-commit.json"
_RESULTS = "results"
# Suffixes of files in the packages that Python or the code may load.
_SOURCE_SUFFIXES = frozenset({".py", ".json", ".toml", ".so", ".pyd"})
_EXECUTABLE = "100755"
_SHA1_DIGITS = 40


class Change(NamedTuple):
    """One file that differs from the commit.

    Attributes:
        path: Relative to the root.
        content: Hash of what the working tree has in its place; empty if nothing.
    """

    path: str
    content: str


def changes(repository: Repository, commit: str | None) -> list[Change]:
    """Return all differences of the working tree from a commit, outside ``results``.

    Of files outside the packages, those that a sparse checkout left out are no difference.

    Args:
        repository: The source tree's.
        commit: Full hash; None is a commit without files.

    Raises:
        GitError: git cannot read the commit.
    """
    tree = repository.tree(commit)
    outside = {path: entry for path, entry in tree.items() if not _is_in(path, _RESULTS)}
    differences = _changed_files(repository, outside)
    if repository.setting("core.sparseCheckout"):
        differences = [
            change for change in differences if change.content or _is_source(change.path)
        ]
    unlisted = repository.unignored_files() | set(_source_files(repository.root, tree))
    unlisted -= tree.keys() | {STAMP}
    differences += [
        Change(path, _content(repository.root / path, commit or ""))
        for path in unlisted
        if not _is_in(path, _RESULTS)
    ]
    return sorted(differences)


def package_changes(repository: Repository, commit: str | None) -> list[Change]:
    """Differences in the packages alone; see `changes`."""
    return [change for change in changes(repository, commit) if _is_source(change.path)]


def require_commit(name: str | None, root: Path = ROOT) -> None:
    """Check that the packages of a tree are those of a commit, so that its figures are too.

    Args:
        name: Anything that git takes for a commit; None is the one that is checked out.
        root: The tree.

    Raises:
        UsageError: the packages differ, there is no such commit, or the tree has no repository.
        GitError: git refuses to answer.
    """
    repository = find_repository(root)
    if repository is None:
        raise UsageError(f"{root} is no git repository, so that its source is of no commit")
    if name is None:
        commit = repository.head()
    else:
        try:
            commit = repository.resolve(name)
        except GitError as error:
            raise UsageError(f"{name} is not a commit of {root}: {error}") from None
    if changed := package_changes(repository, commit):
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        named = commit[:12] if commit else "that is still to be made"
        raise UsageError(f"{changed[0].path}{more} differs from the commit {named}")


def _changed_files(repository: Repository, tree: Mapping[str, TreeEntry]) -> list[Change]:
    """Files of a commit that the working tree lacks or has with another content or mode."""
    root, differing = repository.root, []
    converts_line_ends = repository.setting("core.autocrlf")
    executable: dict[str, bool] = {}
    for path, entry in tree.items():
        if entry.mode == GITLINK:
            if not _is_submodule_at(root / path, entry.object_id, _is_source(path)):
                differing.append(Change(path, "another commit"))
            continue
        content = _content(root / path, entry.object_id)
        same = content == entry.object_id
        if not same and converts_line_ends:
            same = _differs_in_line_ends(root / path, entry)
        if not same:
            differing.append(Change(path, content))
        elif entry.mode != LINK:
            executable[path] = bool((root / path).stat().st_mode & stat.S_IXUSR)
    # A file system that has one mode for all files says nothing about any.
    if len(set(executable.values())) > 1:
        differing += [
            Change(path, f"{tree[path].object_id} of another mode")
            for path, flag in executable.items()
            if (tree[path].mode == _EXECUTABLE) != flag
        ]
    return differing


def _content(path: Path, like: str) -> str:
    """Hash of a file or symbolic link as git computes it; empty if there is none.

    Args:
        path: The file.
        like: A hash of the repository's kind, SHA-1 or SHA-256.
    """
    try:
        data = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
    except OSError:
        # A folder in the place of a file, or one that may not be read, is no equal either.
        return "unreadable" if os.path.lexists(path) else ""
    return _blob_id(data, like)


def _blob_id(data: bytes, like: str) -> str:
    kind = "sha256" if len(like) > _SHA1_DIGITS else "sha1"
    return hashlib.new(kind, b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest()


def _differs_in_line_ends(path: Path, entry: TreeEntry) -> bool:
    """Return True if a file differs from the commit's in line ends alone."""
    if path.is_symlink() or not path.is_file():
        return False
    data = path.read_bytes().replace(b"\r\n", b"\n")
    return _blob_id(data, entry.object_id) == entry.object_id


def _is_submodule_at(folder: Path, commit: str, needed: bool) -> bool:
    """Return True if a submodule has its commit, or was never fetched and is not needed."""
    try:
        repository = find_repository(folder)
        if repository is None:
            return not needed
        return repository.head() == commit and not changes(repository, commit)
    except GitError:
        return False


def _source_files(root: Path, tree: Mapping[str, TreeEntry]) -> Iterator[str]:
    """Files that Python or the code could load, ignored by git or not.

    They are those in the packages, and modules beside them, which would hide installed ones.
    """
    yield from (path.name for path in root.glob("*.py"))
    for package in PACKAGES:
        for folder, folders, files in os.walk(root / package):
            paths = {name: Path(folder, name).relative_to(root).as_posix() for name in folders}
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            # Tools keep caches in hidden folders; submodules are compared by themselves.
            folders[:] = [
                name
                for name in folders
                if not (name.startswith(".") or name == "__pycache__" or paths[name] in tree)
            ]
            for name in files + links:
                if name in links or Path(name).suffix in _SOURCE_SUFFIXES:
                    yield Path(folder, name).relative_to(root).as_posix()


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _is_source(path: str) -> bool:
    return any(_is_in(path, package) for package in PACKAGES)
