"""Suite that ``asv run`` executes. asv imports it by itself, without the project's folder."""

import sys as _sys
from pathlib import Path as _Path

# Before everything else: another checkout may be installed.
_sys.path.insert(0, str(_Path(__file__).resolve().parents[3]))
