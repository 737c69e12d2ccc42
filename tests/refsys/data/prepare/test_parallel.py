"""Preparation of many structures: in processes, from a folder, killed at any moment."""

import filecmp
import os
import random
import re
import resource
import shutil
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from support import HANG_S
from support.mmcif import mmcif

from bench.cli import main
from refsys import processes
from refsys.data.prepare import parallel, similarity
from refsys.data.prepare.entries import Prepared, Sources
from refsys.data.prepare.folder import folder_contents
from refsys.data.prepare.parallel import prepare_all
from refsys.data.prepare.similarity import find_templates_and_clusters
from refsys.data.store.store import Store
from refsys.errors import UnexpectedError

ROOT = Path(__file__).resolve().parents[4]
ENTRIES = ("1ubq", "2q2k", "1kd8")


@pytest.fixture(scope="module")
def folder(sources, tmp_path_factory):
    """Return a folder of structures of the core set with an MSA, as a user would have it."""
    folder = tmp_path_factory.mktemp("mine")
    for entry in ENTRIES:
        path = sources[entry].structure.cached
        suffixes = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:])
        shutil.copy(path, folder / f"{entry}{suffixes}")
    shutil.copy(sources["2q2k"].alignments["B"].cached, folder / "2q2k_B.sto")
    return folder


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Return a store of the folder that was prepared without a fault."""
    store = Store(tmp_path_factory.mktemp("whole"))
    for _, done in prepare_all(store, folder_contents(folder).sources, 0):
        assert not isinstance(done, Exception), done
    find_templates_and_clusters(store)
    return store


@pytest.fixture
def start(folder, tmp_path, command_server):
    """Start to prepare the folder in a store."""

    def start(workers=1, **environment):
        options = ["--store", tmp_path, "--workers", workers]
        words = ["prepare", "--from", folder, *options]
        return command_server.start(words, folder=ROOT, **environment)

    return start


def assert_same(one, two):
    """Check that both stores have the same files with the same bytes."""
    files = [
        sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())
        for store in (one, two)
    ]
    assert files[0] == files[1]
    assert filecmp.cmpfiles(one, two, files[0], shallow=False)[1:] == ([], [])


def test_folder_contents_are_structures_with_their_msas(folder):
    files = {s.structure.name.partition(".")[0]: s for s in folder_contents(folder).sources}
    assert sorted(files) == sorted(ENTRIES)
    assert files["2q2k"].alignments == {"B": folder / "2q2k_B.sto"}
    assert not files["1ubq"].alignments


def test_from_option_excludes_a_structure_argument(folder, capsys):
    assert main(["prepare", "x.cif", "--from", str(folder)]) == 2
    assert capsys.readouterr().err == "foldperf: --from takes the place of a structure\n"


class TestProcesses:
    def test_prepared_store_is_independent_of_the_number_of_processes(
        self, folder, whole, tmp_path
    ):
        store = Store(tmp_path)
        assert len(list(prepare_all(store, folder_contents(folder).sources, 2))) == len(ENTRIES)
        find_templates_and_clusters(store)
        assert_same(tmp_path, whole.root)

    def test_unusable_structure_does_not_stop_the_others(
        self, folder, tmp_path, capsys, monkeypatch
    ):
        # Forked processes need not import everything again.
        monkeypatch.setattr(processes, "get_context", lambda _: get_context("fork"))
        inputs = tmp_path / "mine"
        shutil.copytree(folder, inputs)
        (inputs / "bad.cif").write_text("data_bad\n", encoding="utf-8")
        assert main(["prepare", "--from", str(inputs), "--store", str(tmp_path / "store")]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert "bad.cif: no _atom_site category" in said.err
        assert "bad.cif: not prepared" in said.out
        assert Store(tmp_path / "store").entries() == sorted(ENTRIES)

    def test_prepare_reports_repaired_records(self, folder, whole, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(processes, "get_context", lambda _: get_context("fork"))
        store = tmp_path / "store"
        shutil.copytree(whole.root, store)
        column = next((store / "records" / "structure").rglob("atom_position.npy"))
        content = bytearray(column.read_bytes())
        content[-3] ^= 4
        column.write_bytes(content)
        assert main(["prepare", "--from", str(folder), "--store", str(store)]) == 0
        said = capsys.readouterr()
        assert said.err == f"foldperf: repaired: {column}: altered since it was written\n"
        assert_same(store, whole.root)

    def test_dead_process_affects_no_other_structure(self, start, whole, tmp_path):
        """The structure of a killed process is retried alone."""
        running = start(workers=2)
        while not (children := children_of(running.pid)):
            assert running.is_running()
            time.sleep(0.01)
        os.kill(children[0], signal.SIGKILL)
        done = running.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same(tmp_path, whole.root)


def children_of(pid):
    """Return the process numbers of the children of a process."""
    children = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text(encoding="utf-8").rpartition(")")[2]
        except OSError:
            continue
        if int(stat.split()[1]) == pid:
            children.append(int(path.name))
    return children


def prepare_here(store, requested):
    list(prepare_all(store, requested, 0))
    find_templates_and_clusters(store)


def test_prepare_recovers_from_processes_killed_at_any_moment(folder, start, whole, tmp_path):
    """Kill three processes on one store, ten times, when they start to write or a bit later."""
    moments, unfinished = random.Random(7), 0
    for _ in range(10):
        shutil.rmtree(tmp_path / "records", ignore_errors=True)
        # Forked processes need not import everything again.
        arguments = (Store(tmp_path), folder_contents(folder).sources)
        fork = get_context("fork")
        running = [fork.Process(target=prepare_here, args=arguments) for _ in range(3)]
        for process in running:
            process.start()
        while not list(tmp_path.glob("records/*/.*")) and running[0].is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.3) * moments.randint(0, 1))
        for process in running:
            process.kill()
            process.join()
        unfinished += len(list(tmp_path.glob("records/*/.*")))
    assert unfinished
    last = start().wait()
    assert last.returncode == 0, last.stdout + last.stderr
    assert not last.stderr
    assert_same(tmp_path, whole.root)


def prepare_on_a_full_disk(store, requested, said):
    """Prepare with a limit on file sizes, which fails like a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
    said.put([str(done) for _, done in prepare_all(store, requested, 0)])


def test_prepare_reports_a_full_disk_and_recovers(folder, whole, tmp_path):
    fork, store = get_context("fork"), Store(tmp_path)
    said = fork.Queue()
    requested = folder_contents(folder).sources
    process = fork.Process(target=prepare_on_a_full_disk, args=(store, requested, said))
    process.start()
    lines = said.get(timeout=HANG_S)
    process.join()
    assert len(lines) == len(ENTRIES)
    for line in lines:
        assert "cannot write the record: " in line
        assert "is the disk full?" in line or "File too large" in line
        assert "\n" not in line
    assert not store.entries()
    assert not list(tmp_path.rglob(".*"))
    prepare_here(store, folder_contents(folder).sources)
    assert_same(tmp_path, whole.root)


def test_single_structure_is_prepared_without_a_process(tmp_path):
    path = tmp_path / "x.cif"
    path.write_text(mmcif(), encoding="utf-8")
    ((_, done),) = prepare_all(Store(tmp_path / "store"), [Sources(structure=path)], 4)
    assert done.entry == "test"


# Exception that the reader raises, and its line, by the name of the file.
FAULTS = {
    "memory": (MemoryError(), "not enough memory to read it"),
    "recursion": (RecursionError("maximum recursion depth"), "nested too deeply to be read"),
    "letters": (UnicodeEncodeError("ascii", "Cα", 1, 2, "no"), "UnicodeEncodeError: 'ascii'"),
    "lines": (ValueError("one\n two\x07"), r"ValueError: one two\x07"),
    "system": (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left"),
    "assertion": (AssertionError(), "AssertionError"),
}


class TestIsolation:
    """Failures of one file do not affect the others."""

    @pytest.fixture
    def requested(self, tmp_path):
        names = (*FAULTS, "killed", "one", "two", "three")
        return [Sources(structure=tmp_path / f"{name}.cif") for name in names]

    @pytest.fixture(autouse=True)
    def prepare(self, monkeypatch):
        def prepare(store, sources):
            name = sources.structure.stem
            if name == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if name in FAULTS:
                raise FAULTS[name][0]
            return Prepared(entry=name, tokens=1, built=1)

        monkeypatch.setattr(parallel, "prepare", prepare)

    def assert_isolated(self, outcomes):
        for name, (_, message) in FAULTS.items():
            error = outcomes[name]
            assert isinstance(error, UnexpectedError), name
            assert f"/{name}.cif: {message}" in str(error)
            assert "\n" not in str(error)
            assert error.details.startswith("Traceback (most recent call last):\n")
        for name in ("one", "two", "three"):
            assert outcomes[name] == Prepared(entry=name, tokens=1, built=1)

    def test_exception_of_any_class_is_an_error_of_its_file(self, tmp_path, requested):
        sound = [sources for sources in requested if sources.structure.stem != "killed"]
        results = prepare_all(Store(tmp_path / "store"), sound, 0)
        self.assert_isolated({sources.structure.stem: outcome for sources, outcome in results})

    @pytest.mark.parametrize("workers", [1, 3])
    def test_killed_process_is_an_error_of_its_file(
        self, tmp_path, requested, monkeypatch, workers
    ):
        # Forked processes inherit the replaced function.
        monkeypatch.setattr(processes, "get_context", lambda method: get_context("fork"))
        results = list(prepare_all(Store(tmp_path / "store"), requested, workers))
        outcomes = {sources.structure.stem: outcome for sources, outcome in results}
        assert len(results) == len(outcomes) == len(requested)
        assert str(outcomes["killed"]).endswith(
            "/killed.cif: the process that prepared it was killed; is there too little memory?"
        )
        self.assert_isolated(outcomes)

    def test_traceback_is_printed_only_with_debug(self, tmp_path, capsys):
        for name in ("letters", "one"):
            (tmp_path / f"{name}.cif").write_text("", encoding="utf-8")
        command = ["prepare", "--from", str(tmp_path), "--workers", "0"]
        command += ["--store", str(tmp_path / "store")]
        assert main(command) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert main([*command, "--debug"]) == 2
        line, trace, *_ = capsys.readouterr().err.splitlines()
        assert "letters.cif: UnicodeEncodeError" in line
        assert trace == "Traceback (most recent call last):"


def test_failed_template_search_of_one_entry_does_not_stop_the_others(
    tmp_path, monkeypatch, capsys
):
    inputs = tmp_path / "mine"
    inputs.mkdir()
    for name in ("a", "b", "c"):
        (inputs / f"{name}.cif").write_text(f"# {name}\n{mmcif()}", encoding="utf-8")
    search = similarity._relations

    def relations(builder, store, columns, results):
        if columns.facts["entry"] == "b":
            raise IndexError("out of range")
        return search(builder, store, columns, results)

    monkeypatch.setattr(similarity, "_relations", relations)
    command = ["prepare", "--from", str(inputs), "--workers", "0"]
    assert main([*command, "--store", str(tmp_path / "store")]) == 2
    assert re.search(r"/structure/\w+: b: IndexError: out of range\n$", capsys.readouterr().err)
    related = [path.stem for path in (tmp_path / "store" / "relations").iterdir()]
    assert sorted(related) == ["a", "c"]
