"""Queries of git about the repository of a source tree.

Answers depend on the repository alone. Variables such as ``GIT_DIR`` name another repository or
index, and settings such as ``status.showUntrackedFiles`` hide files; the variables are removed, and
only commands that read no such setting are used. Git's own refusals become `GitError`.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from bench.errors import GitError

# Variables that say where the user's configuration is, as HOME does, and the one with which git's
# own tests ask for a refusal.
_ALLOWED = frozenset(
    {
        *("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM"),
        "GIT_TEST_ASSUME_DIFFERENT_OWNER",
    }
)
# Settings that CI services pass in variables so that git trusts their checkout.
_TRUST = "safe.directory"
# Without optional locks no query writes to the index; without replacements ('git replace') a hash
# means the commit itself.
_OPTIONS = (
    *("--no-optional-locks", "--no-replace-objects", "--no-pager"),
    *("-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false"),
)
_TIMEOUT_S = 60.0
_LONGEST_REFUSAL = 500
GITLINK = "160000"
LINK = "120000"


class TreeEntry(NamedTuple):
    """One file of a commit.

    Attributes:
        mode: ``100644``, ``100755``, ``120000`` (symbolic link) or ``160000`` (submodule).
        object_id: Hash of its content, or the submodule's commit.
    """

    mode: str
    object_id: str


def git_environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of git, without variables for another repository or setting."""
    allowed = {
        name: value
        for name, value in variables.items()
        if not name.startswith("GIT_") or name in _ALLOWED
    }
    return allowed | {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}


def trusted_directories(variables: Mapping[str, str] = os.environ) -> list[str]:
    """Return values of ``safe.directory`` in ``GIT_CONFIG_COUNT``, ``GIT_CONFIG_KEY_0``, ...."""
    count = variables.get("GIT_CONFIG_COUNT", "")
    pairs = [
        (variables.get(f"GIT_CONFIG_KEY_{index}", ""), variables.get(f"GIT_CONFIG_VALUE_{index}"))
        for index in range(min(int(count), 1000) if count.isdecimal() else 0)
    ]
    return [value for key, value in pairs if key.lower() == _TRUST and value is not None]


class Repository:
    """Repository whose working tree is a folder."""

    def __init__(self, root: Path) -> None:
        """Ask git for the repository.

        Args:
            root: Top of the working tree; a folder inside a tree is refused.

        Raises:
            GitError: git is not installed or refuses, or the working tree is another folder.
        """
        self.root = root
        top = Path(os.fsdecode(self.ask("rev-parse", "--show-toplevel").removesuffix(b"\n")))
        if not _same_folder(top, root):
            raise GitError(f"{root}: git takes {top} for the working tree of its repository")

    def ask(self, *arguments: str, stdin: bytes = b"", index: Path | None = None) -> bytes:
        """Run git and return its output.

        Args:
            arguments: Command and arguments.
            stdin: Input of git.
            index: Index to read in place of the repository's.

        Raises:
            GitError: git is not installed, fails or does not end; the message is its own.
        """
        environment = git_environment()
        # Git must not find the repository of a folder above this one.
        environment["GIT_CEILING_DIRECTORIES"] = str(self.root.resolve().parent)
        if index is not None:
            environment["GIT_INDEX_FILE"] = str(index)
        trusted = [word for path in trusted_directories() for word in ("-c", f"{_TRUST}={path}")]
        try:
            done = subprocess.run(
                ["git", "-C", str(self.root), *_OPTIONS, *trusted, *arguments],
                input=stdin,
                capture_output=True,
                env=environment,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except OSError as error:
            raise GitError(f"git cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise GitError(f"git {arguments[0]} did not end within {_TIMEOUT_S:g} s") from None
        if done.returncode:
            raise GitError(f"git {arguments[0]}: {_refusal(done.stderr)}")
        return done.stdout

    def resolve(self, name: str) -> str:
        """Return the full hash of the commit that a name means.

        Raises:
            GitError: there is no such commit.
        """
        question = ("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
        return self.ask(*question).decode().strip()

    def head(self) -> str | None:
        """Return the full hash of the commit that is checked out; None before the first commit."""
        try:
            return self.resolve("HEAD")
        except GitError:
            # A branch without a commit, as opposed to a HEAD that cannot be read.
            branch = self.ask("symbolic-ref", "HEAD").decode().strip()
            if self.ask("for-each-ref", branch):
                raise
            return None

    def commit_time(self, commit: str) -> str:
        """Return the time of a commit in ISO 8601, with the committer's time zone."""
        for line in self.ask("cat-file", "commit", commit).split(b"\n"):
            if line.startswith(b"committer "):
                seconds, zone = line.split()[-2:]
                return datetime.fromtimestamp(int(seconds), _time_zone(zone)).isoformat()
        raise GitError(f"{self.root}: commit {commit} has no committer")

    def tree(self, commit: str | None, paths: Sequence[str] = ()) -> dict[str, TreeEntry]:
        """Return the files of a commit by path, all or those below `paths`; none for no commit."""
        if commit is None:
            return {}
        listed = self.ask("ls-tree", "-r", "-z", "--full-tree", commit, "--", *paths)
        entries = {}
        for line in filter(None, listed.split(b"\0")):
            facts, _, path = line.partition(b"\t")
            mode, _, object_id = facts.decode().split()
            entries[os.fsdecode(path)] = TreeEntry(mode, object_id)
        return entries

    def unignored_files(self) -> set[str]:
        """Return the files of the working tree that no ``.gitignore`` in it names.

        Files that this user alone ignores (``.git/info/exclude``, ``core.excludesFile``) are
        included, and the folder of a repository inside this one.
        """
        question = ("ls-files", "--others", "--exclude-per-directory=.gitignore", "-z")
        with tempfile.TemporaryDirectory(prefix="foldperf-git-") as folder:
            # The repository's own index can hide files; a missing index tracks none.
            listed = self.ask(*question, index=Path(folder, "index"))
        return {os.fsdecode(path).rstrip("/") for path in listed.split(b"\0") if path}

    def contents(self, object_ids: Sequence[str]) -> Iterator[bytes]:
        """Yield the stored content of files of commits, without filters or line-end conversion."""
        names = "".join(f"{object_id}\n" for object_id in object_ids)
        answer = self.ask("cat-file", "--batch", stdin=names.encode())
        start = 0
        for object_id in object_ids:
            end = answer.index(b"\n", start)
            head = answer[start:end].split()
            if head[1:2] != [b"blob"]:
                raise GitError(f"{self.root}: object {object_id} is missing")
            start = end + 1 + int(head[2])
            yield answer[end + 1 : start]
            start += 1

    def setting(self, name: str) -> bool:
        """Return a setting that is true or false; false if it is not set."""
        try:
            return self.ask("config", "--type=bool", "--get", name).strip() == b"true"
        except GitError:
            return False


def find_repository(root: Path) -> Repository | None:
    """Return the repository of a source tree, or None if the tree has none of its own.

    Raises:
        GitError: there is one, and git cannot or will not read it.
    """
    return Repository(root) if os.path.lexists(root / ".git") else None


def _same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _refusal(stderr: bytes) -> str:
    """Return git's message in one line."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines()]
    text = " ".join(filter(None, lines)).removeprefix("fatal: ")
    return text[:_LONGEST_REFUSAL] or "it failed without a message"


def _time_zone(offset: bytes) -> timezone:
    """Return the time zone of an offset such as ``+0130``."""
    number = int(offset)
    minutes = abs(number) // 100 * 60 + abs(number) % 100
    try:
        return timezone(timedelta(minutes=minutes if number >= 0 else -minutes))
    except ValueError:
        return UTC
