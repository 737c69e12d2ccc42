"""Small git repositories with the layout of this project."""

import subprocess
from pathlib import Path

FILES = ("refsys/a.py", "workloads/w.py", "bench/b.py", "bench/sweeps/s.toml", "docs/d.md")


def git(root: Path, *words: str) -> str:
    """Run git with a user of its own and return its output."""
    settings = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(root), *settings, *words]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    return done.stdout.strip()


def make_repository(root: Path, text: str = "x = 1\n") -> str:
    """Create a repository of one commit whose files all contain `text`; return the hash."""
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / ".gitignore").write_text("__pycache__/\nresults/runs/\n", encoding="utf-8")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    return git(root, "rev-parse", "HEAD")
