"""Libraries' cache folders, for users without a home folder or a name."""

import getpass
import os

import pytest

from bench.cli.library_caches import provide_library_caches

FOLDERS = {"MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """The variables of a user with a name, whose home folder does not exist."""
    variables = {"HOME": str(tmp_path / "none"), "FOLDPERF_HOME": str(tmp_path), "LOGNAME": "me"}
    monkeypatch.setattr(os, "environ", variables)
    return variables


def test_library_caches_are_in_our_folder_when_home_cannot_be_written(environment, tmp_path):
    provide_library_caches()
    assert environment.keys() >= FOLDERS
    assert all(environment[name].startswith(str(tmp_path)) for name in FOLDERS)
    assert environment["LOGNAME"] == "me"


def test_library_caches_are_absolute_when_our_folder_is_not(environment):
    environment["FOLDPERF_HOME"] = "cache"
    provide_library_caches()
    assert all(os.path.isabs(environment[name]) for name in FOLDERS)


def test_library_caches_set_by_the_user_stay(environment):
    environment["TRITON_CACHE_DIR"] = "/of/the/user"
    provide_library_caches()
    assert environment["TRITON_CACHE_DIR"] == "/of/the/user"


def test_library_caches_stay_where_they_are_when_home_can_be_written(environment, tmp_path):
    environment["HOME"] = str(tmp_path)
    provide_library_caches()
    assert not environment.keys() & FOLDERS


def test_user_without_a_name_gets_the_number_as_one(environment, monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", unknown)
    provide_library_caches()
    assert environment["LOGNAME"] == f"uid{os.getuid()}"
