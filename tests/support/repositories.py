"""Small repositories with the shape of this project, made by the real git."""

import subprocess
from pathlib import Path

FILES = ("refsys/a.py", "workloads/w.py", "bench/b.py", "bench/sweeps/s.toml", "docs/d.md")


def git(root: Path, *words: str) -> str:
    """Runs git as a user of these tests and returns what it printed."""
    settings = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(root), *settings, *words]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8")
    return done.stdout.strip()


def make_repository(root: Path, text: str = "x = 1\n") -> str:
    """Makes a repository of one commit whose files all hold `text`; the commit's hash."""
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / ".gitignore").write_text("__pycache__/\nresults/runs/\n", encoding="utf-8")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    return git(root, "rev-parse", "HEAD")
