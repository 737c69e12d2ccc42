"""Preparing many: in processes, out of a folder, killed at any moment."""

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
from refsys.data.prepare.similarity import relate
from refsys.data.store.store import Store
from refsys.errors import DataError, UnexpectedError

ROOT = Path(__file__).resolve().parents[4]
ENTRIES = ("1ubq", "2q2k", "1kd8")


@pytest.fixture(scope="module")
def folder(sources, tmp_path_factory):
    """Structures of the core set with an alignment, as a user would have them."""
    folder = tmp_path_factory.mktemp("mine")
    for entry in ENTRIES:
        path = sources[entry].structure.cached
        suffixes = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:])
        shutil.copy(path, folder / f"{entry}{suffixes}")
    shutil.copy(sources["2q2k"].alignments["B"].cached, folder / "2q2k_B.sto")
    return folder


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A store of the folder that nothing happened to."""
    store = Store(tmp_path_factory.mktemp("whole"))
    for _, done in prepare_all(store, folder_contents(folder).sources, 0):
        assert not isinstance(done, Exception), done
    relate(store)
    return store


@pytest.fixture
def start(folder, tmp_path, command_server):
    """Start to prepare the folder in a store."""

    def start(workers=1):
        options = ["--store", tmp_path, "--workers", workers]
        return command_server.start(["prepare", "--from", folder, *options], folder=ROOT)

    return start


def assert_same(one, two):
    """Both stores have the same files with the same bytes, and nothing half-written."""
    found = [
        sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())
        for store in (one, two)
    ]
    assert found[0] == found[1]
    assert filecmp.cmpfiles(one, two, found[0], shallow=False)[1:] == ([], [])


class TestFolder:
    def test_structures_and_their_alignments(self, folder):
        found = {s.structure.name.partition(".")[0]: s for s in folder_contents(folder).sources}
        assert sorted(found) == sorted(ENTRIES)
        assert found["2q2k"].alignments == {"B": folder / "2q2k_B.sto"}
        assert not found["1ubq"].alignments

    def test_names_may_have_dots_and_underscores(self, tmp_path):
        for name in ("my_x.1.cif.gz", "my_x.1_A.a3m.gz", "b.BCIF", ".hidden.cif", "notes.txt"):
            (tmp_path / name).write_text("", encoding="utf-8")
        (tmp_path / "folder.cif").mkdir()
        one, two = folder_contents(tmp_path).sources
        assert one.structure.name == "b.BCIF"
        assert two.alignments == {"A": tmp_path / "my_x.1_A.a3m.gz"}

    @pytest.mark.parametrize("names", [(), ("notes.txt",), ("x.pdb", "x_A.a3m")])
    def test_folder_without_a_structure_is_refused(self, tmp_path, names):
        for name in names:
            (tmp_path / name).write_text("", encoding="utf-8")
        with pytest.raises(DataError, match="no structure: no file ends in"):
            folder_contents(tmp_path)

    @pytest.mark.parametrize(
        ("names", "entries", "reason"),
        [
            (
                ("a.cif", "a.bcif.gz"),
                ["a"],
                r"/a\.cif: not prepared: a\.bcif\.gz is the entry a al",
            ),
            (("A.cif", "a.cif"), ["a"], r"/a\.cif: not prepared: A\.cif is the entry a already"),
            (
                ("a b.cif", "a-b.cif"),
                ["a-b"],
                r"/a-b\.cif: not prepared: a b\.cif is the entry a-b",
            ),
            (
                ("a.cif", "b_A.a3m"),
                ["a"],
                r"/b_A\.a3m: not used: no structure is called b; expected",
            ),
            (("a.cif", "a.a3m"), ["a"], r"/a\.a3m: not used: no structure is called a; expected"),
            (("a.cif", "a_.a3m"), ["a"], r"/a_\.a3m: not used: no structure is called a; expected"),
            (
                ("a.cif", "a_A.a3m", "a_A.sto"),
                ["a"],
                r"/a_A\.sto: not used: a_A\.a3m is of the same chain; remove one of them",
            ),
            (("A.cif", "a.cif", "a_B.a3m"), ["a"], r"/a_B\.a3m: not used: its structure a\.cif is"),
        ],
    )
    def test_file_that_fits_no_entry_is_an_error_and_the_others_are_prepared(
        self, tmp_path, names, entries, reason
    ):
        for name in names:
            (tmp_path / name).write_text("", encoding="utf-8")
        contents = folder_contents(tmp_path)
        assert [sources.name for sources in contents.sources] == entries
        assert re.search(reason, str(contents.errors[-1]))
        assert len(contents.errors) == (2 if names[0] == "A.cif" and len(names) == 3 else 1)

    def test_alignment_belongs_to_the_longest_name_with_or_without_its_case(self, tmp_path):
        for name in ("a.cif", "a_b.cif", "a_b_c_d.a3m", "A_x_1.a3m", "a_b.a3m"):
            (tmp_path / name).write_text("", encoding="utf-8")
        contents = folder_contents(tmp_path)
        given = {sources.name: dict(sources.alignments) for sources in contents.sources}
        assert given == {
            "a": {"x_1": tmp_path / "A_x_1.a3m", "b": tmp_path / "a_b.a3m"},
            "a_b": {"c_d": tmp_path / "a_b_c_d.a3m"},
        }
        assert not contents.errors

    def test_link_to_a_missing_structure_is_one_of_the_structures(self, tmp_path):
        (tmp_path / "gone.cif").symlink_to(tmp_path / "nowhere.cif")
        os.mkfifo(tmp_path / "pipe.cif")
        assert [s.name for s in folder_contents(tmp_path).sources] == ["gone"]

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(DataError, match="none: No such file"):
            folder_contents(tmp_path / "none")

    def test_it_takes_the_place_of_a_structure(self, folder, capsys):
        assert main(["prepare", "x.cif", "--from", str(folder)]) == 2
        assert capsys.readouterr().err == "foldperf: --from takes the place of a structure\n"


class TestProcesses:
    def test_their_number_changes_nothing(self, folder, whole, tmp_path):
        store = Store(tmp_path)
        assert len(list(prepare_all(store, folder_contents(folder).sources, 2))) == len(ENTRIES)
        relate(store)
        assert_same(tmp_path, whole.root)

    def test_one_that_cannot_be_used_does_not_stop_the_others(self, folder, tmp_path, capsys):
        mine = tmp_path / "mine"
        shutil.copytree(folder, mine)
        (mine / "bad.cif").write_text("data_bad\n", encoding="utf-8")
        assert main(["prepare", "--from", str(mine), "--store", str(tmp_path / "store")]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert "bad.cif: no _atom_site category" in said.err
        assert "bad.cif: not prepared" in said.out
        assert Store(tmp_path / "store").entries() == sorted(ENTRIES)

    def test_repairs_are_said(self, folder, whole, tmp_path, capsys):
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

    def test_a_process_that_dies_fails_no_other(self, start, whole, tmp_path):
        """Whatever is killed is tried again alone."""
        running = start(workers=2)
        while not (children := spawned(running.pid)):
            assert running.is_running()
            time.sleep(0.01)
        os.kill(children[0], signal.SIGKILL)
        done = running.wait()
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same(tmp_path, whole.root)


def spawned(pid):
    """The workers of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in line:
            found.append(int(path.name))
    return found


def prepare_here(store, wanted):
    list(prepare_all(store, wanted, 0))
    relate(store)


def test_killed_at_any_moment_the_next_run_ends_right(folder, start, whole, tmp_path):
    """Three at once on one store, twenty times, killed as they begin to write or a little later."""
    moments, unfinished = random.Random(7), 0
    for _ in range(20):
        shutil.rmtree(tmp_path / "records", ignore_errors=True)
        # Forked, they need not import everything anew.
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


def prepare_on_a_full_disk(store, wanted, said):
    """A limit on file sizes fails like a full disk: the write is refused."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
    said.put([str(done) for _, done in prepare_all(store, wanted, 0)])


def test_a_full_disk_is_a_line_each_and_the_next_run_ends_right(folder, whole, tmp_path):
    fork, store = get_context("fork"), Store(tmp_path)
    said = fork.Queue()
    wanted = folder_contents(folder).sources
    process = fork.Process(target=prepare_on_a_full_disk, args=(store, wanted, said))
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


def test_a_structure_alone_needs_no_process(tmp_path):
    path = tmp_path / "x.cif"
    path.write_text(mmcif(), encoding="utf-8")
    ((_, done),) = prepare_all(Store(tmp_path / "store"), [Sources(structure=path)], 4)
    assert done.entry == "test"


# What a reader raises by its file's name, and the line of it.
FAULTS = {
    "memory": (MemoryError(), "not enough memory to read it"),
    "recursion": (RecursionError("maximum recursion depth"), "nested too deeply to be read"),
    "letters": (UnicodeEncodeError("ascii", "Cα", 1, 2, "no"), "UnicodeEncodeError: 'ascii'"),
    "lines": (ValueError("one\n two\x07"), r"ValueError: one two\x07"),
    "system": (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left"),
    "assertion": (AssertionError(), "AssertionError"),
}


class TestIsolation:
    """Whatever happens on one file, the others are prepared."""

    @pytest.fixture
    def wanted(self, tmp_path):
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

    def test_exception_of_any_class_is_an_error_of_its_file(self, tmp_path, wanted):
        sound = [sources for sources in wanted if sources.structure.stem != "killed"]
        results = prepare_all(Store(tmp_path / "store"), sound, 0)
        self.assert_isolated({sources.structure.stem: outcome for sources, outcome in results})

    @pytest.mark.parametrize("workers", [1, 3])
    def test_killed_process_is_an_error_of_its_file(self, tmp_path, wanted, monkeypatch, workers):
        # Forked, the processes have the replaced function.
        monkeypatch.setattr(processes, "get_context", lambda method: get_context("fork"))
        results = list(prepare_all(Store(tmp_path / "store"), wanted, workers))
        outcomes = {sources.structure.stem: outcome for sources, outcome in results}
        assert len(results) == len(outcomes) == len(wanted)
        assert str(outcomes["killed"]).endswith(
            "/killed.cif: the process that prepared it was killed; is there too little memory?"
        )
        self.assert_isolated(outcomes)

    def test_traceback_of_a_file_is_shown_under_debug_alone(self, tmp_path, capsys):
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


def test_entry_whose_relations_fail_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("a", "b", "c"):
        (mine / f"{name}.cif").write_text(f"# {name}\n{mmcif()}", encoding="utf-8")
    search = similarity._relations

    def relations(maker, store, columns, found):
        if columns.facts["entry"] == "b":
            raise IndexError("out of range")
        return search(maker, store, columns, found)

    monkeypatch.setattr(similarity, "_relations", relations)
    command = ["prepare", "--from", str(mine), "--workers", "0"]
    assert main([*command, "--store", str(tmp_path / "store")]) == 2
    assert re.search(r"/structure/\w+: b: IndexError: out of range\n$", capsys.readouterr().err)
    related = [path.stem for path in (tmp_path / "store" / "relations").iterdir()]
    assert sorted(related) == ["a", "c"]
