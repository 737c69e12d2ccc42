"""Folders of files that are not the project's own: downloads and prepared inputs."""

import os
from pathlib import Path

from refsys.errors import HomeError


def home() -> Path:
    """Return ``$FOLDPERF_HOME``, else ``foldperf`` in the user's cache folder.

    Raises:
        HomeError: no variable names a folder, and the user has no home.
    """
    if chosen := os.environ.get("FOLDPERF_HOME"):
        return Path(chosen)
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
    """Return ``$FOLDPERF_STORE``, else ``store`` in the home: the prepared inputs.

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
