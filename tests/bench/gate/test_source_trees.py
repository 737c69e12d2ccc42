"""Source trees of the timing gate: their content, and the unchanged repository."""

import os
import subprocess

import pytest

from bench.errors import UsageError
from bench.gate.timing.source_trees import PACKAGES, default_reference, source_trees


def git(repository, *words):
    who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(repository), *who, *words],
        check=True,
        capture_output=True,
        encoding="utf-8",
    )
    return done.stdout.strip()


def write(root, text):
    for package in PACKAGES:
        (root / package).mkdir(parents=True, exist_ok=True)
        (root / package / "code.py").write_text(text, encoding="utf-8")


def commit(root, text):
    write(root, text)
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", text)


@pytest.fixture
def repository(tmp_path):
    """Commits one and two on main, three on a branch of two that is checked out."""
    root = tmp_path / "repository"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    commit(root, "one")
    commit(root, "two")
    git(root, "checkout", "-q", "-b", "branch")
    commit(root, "three")
    return root


def contents(tree):
    return {
        package: (tree / package / "code.py").read_text(encoding="utf-8") for package in PACKAGES
    }


def each(text):
    return dict.fromkeys(PACKAGES, text)


def snapshot(repository):
    return {
        path.relative_to(repository): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in repository.rglob("*")
        if path.is_file()
    }


def test_commit_is_compared_with_the_working_tree(repository):
    write(repository, "edited")
    with source_trees("main~1", repository) as trees:
        assert contents(trees.baseline) == each("one")
        assert contents(trees.candidate) == each("edited")
        assert trees.against.startswith("main~1 (")
        # An edit during the gate affects neither side.
        write(repository, "edited again")
        assert contents(trees.candidate) == each("edited")


def test_folder_is_compared_with_the_working_tree(repository, tmp_path):
    write(tmp_path / "other", "another")
    with source_trees(str(tmp_path / "other"), repository) as trees:
        assert contents(trees.baseline) == each("another")
        assert contents(trees.candidate) == each("three")


def test_both_trees_have_paths_of_the_same_length(repository):
    with source_trees("main", repository) as trees:
        assert len(str(trees.baseline)) == len(str(trees.candidate))


@pytest.mark.parametrize("against", ["main", None])
def test_repository_is_left_as_it_was(repository, against):
    # git would update the index for a file that is newer than stated there.
    os.utime(repository / PACKAGES[0] / "code.py", (2e9, 2e9))
    before = snapshot(repository)
    with source_trees(against, repository):
        pass
    assert snapshot(repository) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_trees_are_removed_after_any_error(repository, error):
    with pytest.raises(error), source_trees("main", repository) as trees:
        raise error
    assert not trees.baseline.parent.exists()


class TestDefault:
    def test_default_of_uncommitted_changes_is_head(self, repository):
        write(repository, "edited")
        assert default_reference(repository) == "HEAD"

    def test_default_of_a_branch_is_its_branch_point(self, repository):
        where = git(repository, "rev-parse", "main")
        commit(repository, "four")
        assert default_reference(repository) == where

    def test_default_of_the_default_branch_is_the_previous_commit(self, repository):
        git(repository, "checkout", "-q", "main")
        assert default_reference(repository) == "HEAD~1"

    def test_default_ignores_untracked_files_outside_the_packages(self, repository):
        (repository / "notes.txt").write_text("x", encoding="utf-8")
        assert default_reference(repository) == git(repository, "rev-parse", "main")


def test_source_trees_refuse_an_unknown_baseline_in_one_line(repository, tmp_path):
    bare = tmp_path / "bare"
    write(bare, "no repository")
    for root, against, message in (
        (repository, "none", "--against none: neither a commit of"),
        (bare, "main", "name the folder of a source tree with --against"),
        (bare, None, "name the folder of a source tree with --against"),
        (repository, str(tmp_path), "neither a commit of"),
        # An empty word, as from a failed command in a script; as a path it is this folder.
        (repository, "", "--against is empty"),
    ):
        with pytest.raises(UsageError, match=message) as refused, source_trees(against, root):
            pass
        assert "\n" not in str(refused.value)


def test_commit_without_the_packages_is_refused(repository):
    git(repository, "rm", "-rq", PACKAGES[1])
    git(repository, "commit", "-q", "-m", "gone")
    with pytest.raises(UsageError, match="--against HEAD: "), source_trees("HEAD", repository):
        pass


def test_baseline_holds_the_files_of_its_commit_when_settings_hide_them(repository, monkeypatch):
    two = git(repository, "rev-parse", "main")
    (repository / ".git/info/attributes").write_text("*.py export-ignore\n", encoding="utf-8")
    git(repository, "replace", two, "main~1")
    monkeypatch.setenv("GIT_DIR", str(repository / "elsewhere"))
    with source_trees(two, repository) as trees:
        assert contents(trees.baseline) == each("two")


def test_default_reference_is_the_commit_under_changes_that_settings_hide(repository):
    git(repository, "update-index", "--assume-unchanged", f"{PACKAGES[0]}/code.py")
    (repository / PACKAGES[0] / "code.py").write_text("edited", encoding="utf-8")
    assert default_reference(repository) == "HEAD"
