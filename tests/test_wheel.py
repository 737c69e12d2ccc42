"""Wheel: it has every file of the packages, and works without the rest of the project."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.records import valid_records

from bench.records.provenance import STAMP, source_sha256
from bench.run.sweep import shipped_sweeps

pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77 or newer")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("analysis", "bench", "refsys", "workloads")
# A user that the password file does not have.
UNKNOWN_UID = "54321"
SWEEP = """
[protocol]
warmup_steps = 0
timed_steps = 1
counts = false
energy_s = 0.1
[[case]]
workload = "alphafold3-trunk"
axes = { tokens = 8, alignment_rows = 1, entry = "1ubq" }
"""


def succeed(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, encoding="utf-8", check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def build_packages(source, folder):
    """Return the names of the files that a wheel of a source tree has, by what packs them."""
    succeed(sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", folder, cwd=source)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return succeed("git", "-C", folder, *identity, *arguments).stdout


@dataclass(frozen=True)
class Build:
    """A repository with the files of this one in its only commit, and the wheel built there."""

    source: Path
    wheel: Path
    commit: str

    @property
    def names(self):
        return set(zipfile.ZipFile(self.wheel).namelist())

    @property
    def stamp(self):
        return json.loads(zipfile.ZipFile(self.wheel).read(STAMP))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = succeed("git", "ls-files", "-co", "--exclude-standard", *PACKAGES, cwd=ROOT).stdout
    single = ["setup.py", "pyproject.toml", "README.md", "LICENSE", ".gitignore"]
    for name in (*listed.splitlines(), *single):
        if os.path.lexists(ROOT / name):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    shutil.copytree(ROOT / "results" / "published", source / "results" / "published")
    git(source, "init", "--quiet")
    git(source, "add", "--all")
    git(source, "commit", "--quiet", "--message", "all")
    # As an earlier build of another commit leaves it.
    stale = source / "build" / "lib" / "bench" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("", encoding="utf-8")
    # Without an index: what building needs is installed here.
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    succeed(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return Build(source, wheel, git(source, "rev-parse", "HEAD").strip())


def test_wheel_has_every_file_of_the_packages_and_no_other(build):
    tracked = git(build.source, "ls-files", *PACKAGES).splitlines()
    paths = [build.source / name for name in tracked]
    # The published numbers: a link to a folder.
    files = [file for path in paths for file in ([path] if path.is_file() else path.iterdir())]
    expected = {str(file.relative_to(build.source)) for file in files}
    assert {"analysis/published_numbers/megafold.json", "bench/baselines/exact.json"} <= expected
    packed = {name for name in build.names if name.split("/")[0] in PACKAGES}
    assert packed == expected
    others = {name for name in build.names - packed if ".dist-info/" not in name}
    assert others == {STAMP}
    assert any(name.endswith("licenses/LICENSE") for name in build.names)


def test_wheel_names_the_commit_it_was_built_of(build):
    assert (build.stamp["sha"], build.stamp["dirty"]) == (build.commit, False)
    assert build.stamp["source_sha256"] == source_sha256()


def test_wheel_built_of_a_source_archive_is_the_same(build, tmp_path):
    script = f"import setuptools.build_meta as b; b.build_sdist({str(tmp_path)!r})"
    succeed(sys.executable, "-c", script, cwd=build.source)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("*/")
    names = build_packages(source, tmp_path / "lib")
    assert names == {name for name in build.names if ".dist-info/" not in name}
    assert json.loads((tmp_path / "lib" / STAMP).read_bytes()) == build.stamp


def test_wheel_of_an_edited_tree_is_marked_dirty(build, tmp_path):
    source = tmp_path / "edited"
    shutil.copytree(build.source, source, symlinks=True)
    with (source / "bench" / "launch.py").open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    build_packages(source, tmp_path / "lib")
    stamp = json.loads((tmp_path / "lib" / STAMP).read_bytes())
    assert (stamp["sha"], stamp["dirty"]) == (build.commit, True)


def test_wheel_of_a_tree_without_a_repository_has_no_commit(build, tmp_path):
    source = tmp_path / "bare"
    shutil.copytree(build.source, source, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    assert STAMP not in build_packages(source, tmp_path / "lib")


def test_provenance_is_imported_where_torch_is_not_installed():
    """An isolated build imports it."""
    code = "import sys; sys.modules['torch'] = sys.modules['numpy'] = None;"
    code += "import bench.records.provenance"
    succeed(sys.executable, "-c", code, cwd=ROOT)


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, used from another folder by a user without HOME.

    The libraries are this environment's. Run by root, commands are of a user without a name either,
    who may read everything: the interpreter may lie in root's home.
    """

    folder: Path
    binaries: Path

    def foldperf(self, *arguments, check=0):
        environment = {
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "FOLDPERF_HOME": str(self.folder / "cache"),
        }
        user = []
        if os.geteuid() == 0 and shutil.which("setpriv"):
            user = ["setpriv", f"--reuid={UNKNOWN_UID}", f"--regid={UNKNOWN_UID}"]
            user += ["--clear-groups", "--inh-caps=+dac_read_search"]
            user += ["--ambient-caps=+dac_read_search"]
        command = [*user, str(self.binaries / "foldperf"), *map(str, arguments)]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == check, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        # matplotlib's, about a home folder.
        assert "temporary cache directory" not in done.stderr
        return done


@pytest.fixture(scope="module")
def installed(build, sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    # A repository of something else.
    git(folder, "init", "--quiet")
    environment = folder / "environment"
    succeed(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    packages = Path(
        succeed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout[:-1]
    )
    # Without what .pth files add to the libraries: this project is perhaps installed from here.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    options = ("--quiet", "--no-deps", "--no-index")
    succeed(sys.executable, "-m", "pip", "--python", python, "install", *options, build.wheel)
    with tempfile.TemporaryDirectory(prefix="foldperf-user-") as name:
        yield Installed(_furnish(Path(name), sources), environment / "bin")


def _furnish(user, sources):
    # Packages of the same names in the working folder, as in another clone, are not to be used.
    for package in PACKAGES:
        (user / package).mkdir()
        (user / package / "__init__.py").write_text(
            "raise SystemExit('of the working folder')", encoding="utf-8"
        )
    (user / "tiny.toml").write_text(SWEEP, encoding="utf-8")
    shutil.copy(sources["1ubq"].structure.cached, user / "1ubq.cif")
    user.chmod(0o755)
    if os.geteuid() == 0:
        for path in (user, *user.rglob("*")):
            os.chown(path, int(UNKNOWN_UID), int(UNKNOWN_UID))
    return user


class TestInstalled:
    """The commands, in an order in which each has what it needs."""

    def test_doctor_examines_the_machine(self, installed):
        output = installed.foldperf("doctor").stdout
        assert "available step_time_s" in output
        assert f"({installed.folder / 'cache' / 'store'})" in output

    def test_list_has_the_shipped_sweeps(self, installed):
        output = installed.foldperf("list").stdout
        for name in shipped_sweeps():
            assert f"sweep {name}:" in output

    def test_structure_is_prepared(self, installed):
        assert "1ubq: 76 tokens" in installed.foldperf("prepare", "1ubq.cif").stdout

    def test_record_of_a_sweep_names_the_wheel_s_commit(self, installed, build):
        assert "1 ok; 1 ran now" in installed.foldperf("run", "tiny.toml").stdout
        (record,) = valid_records(installed.folder / "results/runs/tiny/records.jsonl")
        assert (record["git"]["sha"], record["git"]["dirty"]) == (build.commit, False)
        assert record["source_sha256"] == source_sha256()

    def test_exact_gate_has_its_baseline(self, installed):
        assert "PASS" in installed.foldperf("gate", "--only", "pipeline", "--jobs", "1").stdout

    def test_baseline_of_the_wheel_cannot_be_blessed(self, installed):
        done = installed.foldperf("gate", "--bless", "--reason", "none", check=2)
        assert "belongs to an installed package; name the file" in done.stderr

    def test_report_has_the_published_numbers(self, installed):
        installed.foldperf("report", "--published")
        lines = (
            (installed.folder / "results/report/published.csv")
            .read_text(encoding="utf-8")
            .splitlines()
        )
        assert len(lines) > 20

    def test_nothing_is_written_beside_results_and_cache(self, installed):
        names = {path.name for path in installed.folder.iterdir()}
        assert names == {*PACKAGES, "1ubq.cif", "tiny.toml", "results", "cache"}
