"""Folders for downloads, caches and prepared inputs."""

import os
from pathlib import Path

from refsys.errors import HomeError


def home() -> Path:
    """Return ``$FOLDPERF_HOME``, else ``foldperf`` in the user's cache folder.

    Raises:
        HomeError: no variable names a folder, and the user has no home.
    """
    if folder := os.environ.get("FOLDPERF_HOME"):
        return Path(folder)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "foldperf"
    try:
        return Path.home() / ".cache" / "foldperf"
    except RuntimeError:
        raise HomeError(
            f"user {os.getuid()} has no home folder, and HOME is not set: set FOLDPERF_HOME to a "
            "folder for downloads and prepared inputs"
        ) from None


def default_store() -> Path:
    """Return the folder of prepared inputs: ``$FOLDPERF_STORE``, else ``store`` in `home()`.

    Raises:
        HomeError: no variable names a folder, and the user has no home.
    """
    return Path(os.environ.get("FOLDPERF_STORE") or home() / "store")


def package_cache() -> Path:
    """Return the folder of fetched packages.

    Raises:
        HomeError: no variable names a folder, and the user has no home.
    """
    return home() / "packages"
