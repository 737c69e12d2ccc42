"""Where files that are not the project's own live: downloads and prepared inputs."""

import os
from pathlib import Path


def home() -> Path:
    """``$FOLDPERF_HOME``, else ``foldperf`` in the user's cache folder."""
    if chosen := os.environ.get("FOLDPERF_HOME"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foldperf"


def default_store() -> Path:
    """``$FOLDPERF_STORE``, else ``store`` in the home: the prepared inputs."""
    return Path(os.environ.get("FOLDPERF_STORE") or home() / "store")


def package_cache() -> Path:
    """Files of fetched packages."""
    return home() / "packages"
