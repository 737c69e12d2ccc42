"""Relocation of Triton's cache to another folder.

The cache lists the files of each kernel by absolute path, and ignores a kernel whose files are
missing. After a move, the paths must be rewritten.
"""

from pathlib import Path

from refsys.data.store.columns import MALFORMED
from refsys.files import parse_json, write_json

_LISTS = "*/__grp__*.json"
_PATHS = "child_paths"


def relocate(folder: Path, destination: Path | None = None) -> int:
    """Rewrite the paths in a cache's lists.

    Args:
        folder: Folder of the cache.
        destination: Absolute path under which the cache will be used; None for its present folder.

    Returns:
        Number of lists that were rewritten.
    """
    changed = 0
    for path in sorted(folder.glob(_LISTS)):
        try:
            table = parse_json(path.read_bytes())
            names = {name: Path(old).name for name, old in table[_PATHS].items()}
        except (OSError, *MALFORMED):
            continue  # Triton compiles the kernel again
        if not all((path.parent / name).exists() for name in names.values()):
            continue
        home = (destination or folder) / path.parent.name
        paths = {name: str(home / file) for name, file in names.items()}
        if paths != table[_PATHS]:
            write_json(path, {**table, _PATHS: paths})
            changed += 1
    return changed
