"""Pages of the documentation, with their code blocks and commands."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks_of(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language on a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def toml_blocks_of(page: Path) -> list[str]:
    """Return the TOML blocks of a page."""
    return blocks_of(page, "toml")


def commands_of(page: Path) -> Iterator[str]:
    """Yield every command line of a page, without its comment."""
    for block in blocks_of(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.split(r"\s+#", line)[0].strip()
            if command and not command.startswith("#"):
                yield command
