"""Triton's cache in another place than where it was filled.

The cache lists the files of each kernel by absolute paths, and ignores a kernel whose files are not
there. So a folder that was carried elsewhere must say where it is now, or will be.
"""

from pathlib import Path

from refsys.data.store.columns import MALFORMED
from refsys.files import parse_json, write_json

_LISTS = "*/__grp__*.json"
_PATHS = "child_paths"


def relocate(folder: Path, place: Path | None = None) -> int:
    """Make a cache's lists name the files that lie beside them.

    Args:
        folder: The cache.
        place: Absolute path under which it will be used; None if it stays where it is.

    Returns:
        Number of lists that named other paths.
    """
    changed = 0
    for path in sorted(folder.glob(_LISTS)):
        try:
            table = parse_json(path.read_bytes())
            names = {name: Path(old).name for name, old in table[_PATHS].items()}
        except (OSError, *MALFORMED):
            continue  # Triton compiles it anew
        if not all((path.parent / name).exists() for name in names.values()):
            continue
        home = (place or folder) / path.parent.name
        paths = {name: str(home / file) for name, file in names.items()}
        if paths != table[_PATHS]:
            write_json(path, {**table, _PATHS: paths})
            changed += 1
    return changed
