"""The commit and the state of a source tree, in real repositories whose settings hide changes."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from support.hidden_changes import OUTSIDE_PACKAGES, TRICKS, add, edit
from support.repositories import git, make_repository

from bench.cli import main
from bench.errors import GitError, UsageError
from bench.records import provenance
from bench.records.git import Repository, git_environment, trusted_directories
from bench.records.origin import GitState
from bench.records.provenance import git_state
from bench.records.working_tree import require_commit
from bench.run.isolation import Ended
from bench.run.runner import Runner, Summary

NOBODY = "/dev/null"


@pytest.fixture(autouse=True)
def user(tmp_path, monkeypatch):
    """A user without configuration, whose home is a folder of the test's own."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", NOBODY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (tmp_path / "home").mkdir()


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    make_repository(root)
    return root


@pytest.fixture
def other(tmp_path):
    """Another project's repository, at another commit."""
    root = tmp_path / "other"
    root.mkdir()
    make_repository(root, "other = 1\n")
    return root


@pytest.mark.parametrize("trick", TRICKS)
def test_git_state_is_dirty_when_settings_hide_a_change(tree, trick):
    clean = git_state(tree)
    assert (clean.sha, clean.dirty) == (git(tree, "rev-parse", "HEAD"), False)
    TRICKS[trick](tree)
    dirty = git_state(tree)
    assert (dirty.sha, dirty.dirty) == (clean.sha, True)
    assert dirty.diff_sha256
    assert dirty.commit_time == clean.commit_time


def test_git_state_hash_follows_the_content_of_changes(tree):
    edit(tree)
    first = git_state(tree).diff_sha256
    assert git_state(tree).diff_sha256 == first
    add(tree)
    assert git_state(tree).diff_sha256 != first


def touch(tree):
    os.utime(tree / "refsys/a.py", (2e9, 2e9))


def leave_out_docs(tree):
    git(tree, "sparse-checkout", "set", "refsys", "workloads", "bench")
    assert not (tree / "docs").exists()


def cache(tree):
    for name in ("refsys/__pycache__/a.pyc", "bench/.mypy_cache/x.json", "results/runs/r.jsonl"):
        add(tree, name)
    add(tree, "results/recorded/new.jsonl")
    (tree / ".gitignore").write_text(
        (tree / ".gitignore").read_text(encoding="utf-8") + ".mypy_cache/\n", encoding="utf-8"
    )
    git(tree, "commit", "-qam", "caches")


def convert_line_ends(tree):
    git(tree, "config", "core.autocrlf", "true")
    (tree / "refsys/a.py").write_bytes(b"x = 1\r\n")


def sign_commits_on_show(tree):
    """A signature that is shown is no part of the commit's time."""
    git(tree, "config", "log.showSignature", "true")


@pytest.mark.parametrize(
    "change", [touch, leave_out_docs, cache, convert_line_ends, sign_commits_on_show]
)
def test_git_state_is_clean_when_no_content_differs(tree, change):
    change(tree)
    state = git_state(tree)
    assert (state.sha, state.dirty) == (git(tree, "rev-parse", "HEAD"), False)
    assert "\n" not in state.commit_time


def test_git_state_is_dirty_when_a_sparse_checkout_lacks_source(tree):
    git(tree, "sparse-checkout", "set", "refsys", "bench")
    assert git_state(tree).dirty is True


def linked_worktree(tree):
    git(tree, "worktree", "add", "-q", "--detach", str(tree.parent / "linked"))
    return tree.parent / "linked"


def renamed(tree):
    return tree.rename(tree.parent / "renamed")


def shallow(tree):
    git(tree, "commit", "-q", "--allow-empty", "-m", "two")
    git(tree, "clone", "-q", "--depth", "1", f"file://{tree}", str(tree.parent / "shallow"))
    return tree.parent / "shallow"


def linked_root(tree):
    (tree.parent / "link").symlink_to(tree)
    return tree.parent / "link"


def with_sha256(tree):
    shutil.rmtree(tree / ".git")
    git(tree, "init", "-q", "--object-format=sha256")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "one")
    return tree


def with_submodule(tree):
    library = tree.parent / "library"
    library.mkdir()
    make_repository(library)
    allowed = ("-c", "protocol.file.allow=always")
    git(tree, *allowed, "submodule", "--quiet", "add", str(library), "refsys/library")
    git(tree, "commit", "-qm", "submodule")
    return tree


@pytest.mark.parametrize(
    "make", [linked_worktree, renamed, shallow, linked_root, with_sha256, with_submodule]
)
def test_git_state_is_that_of_other_kinds_of_checkout(tree, make):
    root = make(tree)
    state = git_state(root)
    assert (state.sha, state.dirty) == (git(root, "rev-parse", "HEAD"), False)
    edit(root)
    assert git_state(root).dirty is True


@pytest.mark.parametrize("change", [edit, add])
def test_git_state_is_dirty_when_a_submodule_differs(tree, change):
    with_submodule(tree)
    git(tree, "config", "submodule.refsys/library.ignore", "all")
    change(tree / "refsys/library")
    assert git_state(tree).dirty is True


VARIABLES = {
    "GIT_DIR": ".git",
    "GIT_COMMON_DIR": ".git",
    "GIT_WORK_TREE": "",
    "GIT_INDEX_FILE": ".git/index",
    "GIT_OBJECT_DIRECTORY": ".git/objects",
    "GIT_PREFIX": "refsys/",
    "GIT_CONFIG": ".git/config",
    "GIT_CEILING_DIRECTORIES": "",
}


@pytest.mark.parametrize("names", [*([name] for name in VARIABLES), list(VARIABLES)])
def test_git_state_is_that_of_the_tree_when_variables_name_another_repository(
    tree, other, monkeypatch, names
):
    state = git_state(tree)
    for name in names:
        monkeypatch.setenv(name, str(other / VARIABLES[name]))
    assert git_state(tree) == state
    assert state.dirty is False


@pytest.mark.parametrize(("key", "value"), [("core.bare", "true"), ("core.worktree", "/")])
def test_git_state_is_that_of_the_tree_when_variables_configure_git(tree, monkeypatch, key, value):
    state = git_state(tree)
    monkeypatch.setenv("GIT_CONFIG_KEY_0", key)
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", value)
    for count in ("1", "many"):
        monkeypatch.setenv("GIT_CONFIG_COUNT", count)
        assert git_state(tree) == state


def test_git_environment_has_no_variable_of_another_repository():
    variables = dict.fromkeys(["GIT_DIR", "GIT_TRACE", "GIT_NEW", "PATH", "HOME"], "x")
    assert set(git_environment(variables)) == {"PATH", "HOME", "LC_ALL", "GIT_TERMINAL_PROMPT"}


def test_trusted_directories_are_those_that_variables_configure():
    variables = {"GIT_CONFIG_COUNT": "2", "GIT_CONFIG_KEY_0": "core.bare"}
    variables |= {"GIT_CONFIG_VALUE_0": "x", "GIT_CONFIG_KEY_1": "Safe.Directory"}
    assert trusted_directories(variables | {"GIT_CONFIG_VALUE_1": "/y"}) == ["/y"]
    assert trusted_directories({}) == trusted_directories({"GIT_CONFIG_COUNT": "-1"}) == []


def distrust(tree, monkeypatch):
    del tree
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")


def hide_git(tree, monkeypatch):
    monkeypatch.setenv("PATH", str(tree))


def empty_folder_of_git(tree, monkeypatch):
    """In a subfolder of another repository, where git would go on looking upwards."""
    del monkeypatch
    shutil.rmtree(tree / ".git")
    git(tree.parent, "init", "-q")
    (tree / ".git").mkdir()


def lost_worktree(tree, monkeypatch):
    del monkeypatch
    shutil.rmtree(tree / ".git")
    (tree / ".git").write_text("gitdir: /nowhere/.git/worktrees/x\n", encoding="utf-8")


def no_commit(tree, monkeypatch):
    del monkeypatch
    shutil.rmtree(tree / ".git")
    git(tree, "init", "-q")


def another_working_tree(tree, monkeypatch):
    del monkeypatch
    (tree.parent / "elsewhere").mkdir()
    git(tree, "config", "core.worktree", str(tree.parent / "elsewhere"))


REFUSALS = {
    distrust: "dubious ownership",
    hide_git: "git cannot be run: No such file",
    empty_folder_of_git: "not a git repository",
    lost_worktree: "not a git repository: /nowhere",
    no_commit: "has no commit yet",
    another_working_tree: "elsewhere for the working tree",
}


class TestRefusal:
    @pytest.mark.parametrize("break_", REFUSALS)
    def test_git_state_has_the_reason_why_it_is_unknown(self, tree, monkeypatch, break_):
        break_(tree, monkeypatch)
        state = git_state(tree)
        assert REFUSALS[break_] in state.reason
        assert state == GitState(reason=state.reason)

    def test_git_state_is_unknown_when_another_repository_holds_a_copy(self, tree):
        shutil.rmtree(tree / ".git")
        git(tree.parent, "init", "-q")
        git(tree.parent, "add", "-A")
        git(tree.parent, "commit", "-qm", "one")
        assert git_state(tree) == GitState()

    @pytest.mark.skipif(os.geteuid() != 0, reason="giving files to another user takes root")
    def test_git_state_has_the_reason_when_another_user_owns_the_tree(self, tree, monkeypatch):
        monkeypatch.delenv("SUDO_UID", raising=False)
        for path in (tree, tree / ".git"):
            os.chown(path, 12345, 12345)
        assert "dubious ownership" in git_state(tree).reason
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(tree))
        assert git_state(tree).dirty is False

    def test_git_state_has_the_stamp_and_the_reason(self, tree, monkeypatch):
        monkeypatch.setattr(provenance, "ROOT", tree)
        assert main(["stamp"]) == 0
        state = git_state(tree)
        distrust(tree, monkeypatch)
        refused = git_state(tree)
        assert "dubious ownership" in refused.reason
        assert replace(refused, reason=None) == state

    @pytest.mark.parametrize("break_", REFUSALS)
    def test_stamp_fails_with_the_refusal(self, tree, monkeypatch, capsys, break_):
        monkeypatch.setattr(provenance, "ROOT", tree)
        break_(tree, monkeypatch)
        assert main(["stamp"]) == 2
        assert REFUSALS[break_] in capsys.readouterr().err
        assert not (tree / provenance.STAMP).exists()

    def test_stamp_of_a_stamped_copy_is_refused(self, tree, monkeypatch, capsys):
        monkeypatch.setattr(provenance, "ROOT", tree)
        assert main(["stamp"]) == 0
        shutil.rmtree(tree / ".git")
        assert main(["stamp"]) == 2
        assert "is not a git repository" in capsys.readouterr().err

    @pytest.fixture
    def refused(self, tree, monkeypatch):
        """This project's own tree, as git's refusal of another one."""
        distrust(tree, monkeypatch)
        state = git_state(tree)
        monkeypatch.setattr(provenance, "git_state", lambda: state)

    @pytest.mark.usefixtures("refused")
    def test_doctor_repeats_the_refusal(self, tmp_path, capsys):
        assert main(["doctor", "--device", "cpu", "--store", str(tmp_path)]) == 0
        (line,) = [row for row in capsys.readouterr().out.splitlines() if row[:6] == "commit"]
        assert "dubious ownership" in line
        assert main(["doctor", "--device", "cpu", "--store", str(tmp_path), "--json"]) == 0
        assert "dubious ownership" in capsys.readouterr().out

    @pytest.mark.usefixtures("refused")
    def test_run_repeats_the_refusal_in_one_line(self, tmp_path, monkeypatch, capsys):
        sweep = tmp_path / "s.toml"
        axes = 'axes = { preset = "tiny", tokens = 16, entry = "synthetic" }'
        sweep.write_text(f'[[case]]\nworkload = "alphafold3-trunk"\n{axes}\n', encoding="utf-8")
        nothing = Summary({}, 0, tmp_path, None)
        monkeypatch.setattr(Runner, "run", lambda *arguments: nothing)
        assert main(["run", str(sweep), "--results", str(tmp_path)]) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert "dubious ownership" in line


@pytest.mark.parametrize("damage", [{"sha": 5}, {"sha": "main"}, {"dirty": "no"}, {"sha": None}])
def test_git_state_is_unknown_when_the_stamp_is_damaged(tree, monkeypatch, damage):
    monkeypatch.setattr(provenance, "ROOT", tree)
    assert main(["stamp"]) == 0
    shutil.rmtree(tree / ".git")
    assert git_state(tree).dirty is False
    stamp = json.loads((tree / provenance.STAMP).read_text(encoding="utf-8"))
    (tree / provenance.STAMP).write_text(json.dumps(stamp | damage), encoding="utf-8")
    assert git_state(tree) == GitState()


def test_run_does_not_record_a_case_during_which_the_source_was_edited(
    tmp_path, monkeypatch, capsys
):
    sweep = tmp_path / "s.toml"
    axes = 'axes = { preset = "tiny", tokens = 16, entry = "synthetic" }'
    sweep.write_text(f'[[case]]\nworkload = "alphafold3-trunk"\n{axes}\n', encoding="utf-8")
    ended = Ended(0, None, 1.0, 0, "")
    monkeypatch.setattr(Runner, "_execute", lambda *arguments: ({"status": "ok"}, ended))
    monkeypatch.setattr(provenance, "current_source_sha256", lambda: "edited")
    assert main(["run", str(sweep), "--results", str(tmp_path)]) == 2
    assert "the source was edited while" in capsys.readouterr().err
    assert not (tmp_path / "runs/s/records.jsonl").read_text(encoding="utf-8")


class TestRequiredCommit:
    @pytest.fixture
    def history(self, tree):
        """Commits of other documentation and of other source before the one that is checked out."""
        first = git(tree, "rev-parse", "HEAD")
        add(tree, "refsys/more.py")
        git(tree, "add", "-A")
        git(tree, "commit", "-qm", "source")
        source = git(tree, "rev-parse", "HEAD")
        add(tree, "docs/more.md")
        git(tree, "add", "-A")
        git(tree, "commit", "-qm", "docs")
        return {"first": first, "source": source}

    def test_required_commit_may_differ_outside_the_packages(self, tree, history):
        require_commit(history["source"], tree)
        require_commit("HEAD~1", tree)
        require_commit(None, tree)
        (tree / "docs/d.md").write_text("edited\n", encoding="utf-8")
        require_commit("main", tree)

    def test_required_commit_is_refused_when_its_source_differs(self, tree, history):
        with pytest.raises(UsageError, match=r"refsys/more\.py differs from the commit"):
            require_commit(history["first"], tree)

    @pytest.mark.parametrize("trick", TRICKS)
    def test_required_commit_is_refused_when_settings_hide_a_change(self, tree, trick):
        TRICKS[trick](tree)
        if trick in OUTSIDE_PACKAGES:
            require_commit("HEAD", tree)
        else:
            with pytest.raises(UsageError, match=r"refsys/.* differs from the commit"):
                require_commit("HEAD", tree)

    @pytest.mark.parametrize("name", ["0" * 40, "none", "", "--help", "HEAD^{tree}", "HEAD~9"])
    def test_required_commit_is_refused_when_there_is_none(self, tree, name):
        with pytest.raises(UsageError, match="is not a commit of"):
            require_commit(name, tree)

    def test_required_commit_of_another_repository_is_refused(self, tree, other, monkeypatch):
        monkeypatch.setenv("GIT_DIR", str(other / ".git"))
        with pytest.raises(UsageError, match="is not a commit of"):
            require_commit(git(other, "rev-parse", "HEAD"), tree)

    def test_required_commit_needs_a_repository(self, tree):
        shutil.rmtree(tree / ".git")
        with pytest.raises(UsageError, match="no git repository"):
            require_commit("HEAD", tree)


def test_commit_source_hash_is_that_of_its_checkout(tree):
    repository = Repository(tree)
    commit = repository.resolve("HEAD")
    provenance.source_sha256.cache_clear()
    assert provenance.commit_source_sha256(repository, commit) == provenance.source_sha256(tree)
    edit(tree)
    provenance.source_sha256.cache_clear()
    assert provenance.commit_source_sha256(repository, commit) != provenance.source_sha256(tree)


def test_repository_must_be_the_top_of_its_working_tree(tree):
    with pytest.raises(GitError, match="not a git repository"):
        Repository(tree / "refsys")


def test_repository_is_not_written_to(tree):
    def snapshot():
        paths = [path for path in (tree / ".git").rglob("*") if path.is_file()]
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    os.utime(tree / "refsys/a.py", (2e9, 2e9))
    before = snapshot()
    git_state(tree)
    require_commit("HEAD", tree)
    assert snapshot() == before
