"""Changes to a small repository that git's index, settings or variables hide."""

import os
import shutil

from support.repositories import git


def edit(tree):
    (tree / "refsys/a.py").write_text("x = 2\n", encoding="utf-8")


def add(tree, name="refsys/new.py"):
    (tree / name).parent.mkdir(exist_ok=True, parents=True)
    (tree / name).write_text("x = 2\n", encoding="utf-8")


def mark(flag):
    def hide(tree):
        git(tree, "update-index", flag, "refsys/a.py")
        edit(tree)

    return hide


def restore_times(tree):
    """Edit a file without changing its size and time."""
    git(tree, "config", "core.trustctime", "false")
    git(tree, "config", "core.checkStat", "minimal")
    path = tree / "refsys/a.py"
    os.utime(path, (1e9, 1e9))
    git(tree, "update-index", "--refresh")
    edit(tree)
    os.utime(path, (1e9, 1e9))


def delete_and_mark(tree):
    git(tree, "update-index", "--skip-worktree", "refsys/a.py")
    (tree / "refsys/a.py").unlink()


def filter_content(tree):
    """Edit files under a clean filter that returns their committed content."""
    git(tree, "config", "filter.same.clean", "git show HEAD:%f")
    (tree / ".git/info/attributes").write_text("*.py filter=same\n", encoding="utf-8")
    edit(tree)


def replace_commit(tree):
    """Replace the commit by one with the edited files."""
    head = git(tree, "rev-parse", "HEAD")
    edit(tree)
    git(tree, "commit", "-qam", "two")
    edited = git(tree, "rev-parse", "HEAD")
    git(tree, "reset", "-q", "--hard", head)
    git(tree, "replace", head, edited)
    edit(tree)


def commit_to_index_alone(tree):
    add(tree)
    git(tree, "add", "refsys/new.py")
    git(tree, "config", "status.showUntrackedFiles", "no")


def stage_document(tree):
    add(tree, "docs/new.md")
    git(tree, "add", "docs/new.md")


def watch_files(tree):
    """Edit a file under a file system monitor that reports no change."""
    program = tree / ".git/monitor"
    program.write_text("#!/bin/sh\nprintf '1\\0'\n", encoding="utf-8")
    program.chmod(0o755)
    git(tree, "config", "core.fsmonitor", str(program))
    git(tree, "config", "core.fsmonitorHookVersion", "2")
    git(tree, "update-index", "--fsmonitor")
    git(tree, "status")
    edit(tree)


def ignore_modes(tree):
    git(tree, "config", "core.fileMode", "false")
    (tree / "refsys/a.py").chmod(0o755)


def configure(name, value, scope="--local"):
    def hide(tree):
        git(tree, "config", scope, name, value)
        add(tree)

    return hide


def exclude(tree):
    (tree / ".git/info/exclude").write_text("new.py\n", encoding="utf-8")
    add(tree)


def exclude_module_beside_packages(tree):
    (tree / ".git/info/exclude").write_text("*.py\n", encoding="utf-8")
    add(tree, "torch.py")


def exclude_globally(tree):
    ignored = tree.parent / "home/ignored"
    ignored.write_text("*.py\n", encoding="utf-8")
    git(tree, "config", "--global", "core.excludesFile", str(ignored))
    add(tree)


def ignore_in_folder(tree):
    (tree / "refsys/extra").mkdir()
    (tree / "refsys/extra/.gitignore").write_text("*\n", encoding="utf-8")
    add(tree, "refsys/extra/new.py")


def nest_repository(tree):
    add(tree, "refsys/nested/new.py")
    git(tree / "refsys/nested", "init", "-q")


def link_folder(tree):
    add(tree.parent, "elsewhere/new.py")
    (tree / ".git/info/exclude").write_text("extra\n", encoding="utf-8")
    (tree / "refsys/extra").symlink_to(tree.parent / "elsewhere")


def link_file(tree):
    """Replace a file by a link to a copy outside the repository."""
    shutil.copy(tree / "refsys/a.py", tree.parent / "a.py")
    git(tree, "update-index", "--assume-unchanged", "refsys/a.py")
    (tree / "refsys/a.py").unlink()
    (tree / "refsys/a.py").symlink_to(tree.parent / "a.py")
    git(tree, "config", "core.autocrlf", "true")


TRICKS = {
    "assume unchanged": mark("--assume-unchanged"),
    "skip worktree": mark("--skip-worktree"),
    "skip worktree of a deleted file": delete_and_mark,
    "same size and time": restore_times,
    "clean filter": filter_content,
    "replaced commit": replace_commit,
    "file system monitor": watch_files,
    "modes ignored": ignore_modes,
    "untracked files not shown": configure("status.showUntrackedFiles", "no"),
    "untracked files not shown to this user": configure(
        "status.showUntrackedFiles", "no", "--global"
    ),
    "untracked cache": configure("core.untrackedCache", "true"),
    "in the index alone": commit_to_index_alone,
    "in the index alone, outside the packages": stage_document,
    "excluded": exclude,
    "excluded beside the packages": exclude_module_beside_packages,
    "excluded by the user": exclude_globally,
    "ignored by its folder": ignore_in_folder,
    "nested repository": nest_repository,
    "linked folder": link_folder,
    "linked file": link_file,
    "plain edit": edit,
    "plain new file": add,
}
OUTSIDE_PACKAGES = {"in the index alone, outside the packages", "excluded beside the packages"}
