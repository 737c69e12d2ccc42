"""Records: robust files, identity, origin, promotion."""

import copy
import json
import os
import subprocess
from dataclasses import asdict

import pytest
from support.records import GIT, a_record, parsed, valid_records
from support.repositories import make_repository

from bench.cli import main
from bench.errors import StorageError
from bench.records import provenance
from bench.records.git import Repository
from bench.records.origin import GitState
from bench.records.reading import parse_record, read_records, read_valid_records
from bench.records.record import SCHEMA
from bench.records.record_file import RecordFile


def record(number, status="oom", **fields):
    return parsed(a_record(number, status, **fields))


def keys(records):
    return [int(record.key, 16) for record in records]


class TestFile:
    def test_appended_records_are_read(self, tmp_path):
        with RecordFile(tmp_path / "a" / "r.jsonl").locked() as file:
            file.append(record(1))
            file.append(record(2))
            assert file.records() == [record(1), record(2)]
        assert keys(read_records([tmp_path])) == [1, 2]

    def test_torn_line_is_dropped_before_the_next_record(self, tmp_path):
        path = tmp_path / "r.jsonl"
        with RecordFile(path).locked() as file:
            file.append(record(1))
        with path.open("ab") as torn:
            torn.write(b'{"schema": "fold')
        assert keys(read_records([path])) == [1]
        with RecordFile(path).locked() as file:
            file.append(record(2))
        assert valid_records(path) == [a_record(1), a_record(2)]

    def test_record_without_a_line_end_is_preserved(self, tmp_path):
        path = tmp_path / "r.jsonl"
        path.write_text(json.dumps(a_record(1)), encoding="utf-8")
        with RecordFile(path).locked() as file:
            file.append(record(2))
            assert keys(file.records()) == [1, 2]

    def test_append_refuses_numbers_that_json_lacks(self, tmp_path):
        with RecordFile(tmp_path / "r.jsonl").locked() as file:
            with pytest.raises(ValueError, match="not JSON compliant"):
                file.append(record(1, outcome={"loss": float("nan")}))
            assert file.records() == []

    def test_forget_drops_records_of_a_status(self, tmp_path):
        with RecordFile(tmp_path / "r.jsonl").locked() as file:
            for number, status in enumerate(("blocked", "crash", "oom", "crash"), start=1):
                file.append(record(number, status))
            assert file.forget(lambda record: record.status == "crash") == 2
            file.append(record(5))
            assert keys(file.records()) == [1, 3, 5]
            assert file.forget(lambda record: record.status == "crash") == 0

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_folder_without_permission_is_an_error_of_one_line(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(StorageError, match="Permission denied"):
            RecordFile(tmp_path / "x" / "r.jsonl").locked().__enter__()

    def test_missing_file_is_named(self, tmp_path):
        with pytest.raises(StorageError, match=r"none\.jsonl: No such file"):
            read_records([tmp_path / "none.jsonl"])


@pytest.mark.parametrize(
    "line",
    [
        *("", "{", "[]", "3", "[" * 100_000, "\x00"),
        json.dumps({"schema": SCHEMA, "key": 1}),
        json.dumps(a_record(1) | {"schema": "other/1"}),
        json.dumps(a_record(1) | {"status": "splendid"}),
        json.dumps(a_record(1) | {"git": None}),
        json.dumps(a_record(1) | {"unknown": 1}),
        json.dumps(a_record(1) | {"replicate": True}),
        json.dumps(a_record(1) | {"duration_s": float("nan")}),
        json.dumps(a_record(1) | {"duration_s": 10**400}),
    ],
)
def test_parse_record_returns_none_when_the_line_is_not_a_record(line):
    assert parse_record(json.dumps(a_record(1)).encode())
    assert parse_record(line.encode()) is None


class TestValid:
    def write(self, tmp_path, text):
        path = tmp_path / "r.jsonl"
        path.write_text(text, encoding="utf-8")
        return [path]

    def test_repetitions_and_a_torn_end_are_left_out(self, tmp_path):
        line = json.dumps(a_record(1)) + "\n"
        assert read_valid_records(self.write(tmp_path, line + line + line[:50])) == [record(1)]

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda r: r.pop("workload"), "record: 'workload' is a required property"),
            (lambda r: r["host"].update(cores="two"), "host.cores: 'two' is not of type 'integer'"),
            (lambda r: r.update(devices=[]), "devices: "),
            (lambda r: r.update(schema="other/1"), "not a record of foldperf.record/2"),
        ],
    )
    def test_damaged_line_is_named(self, tmp_path, damage, message):
        wrong = copy.deepcopy(a_record(2))
        damage(wrong)
        lines = json.dumps(a_record(1)) + "\n" + json.dumps(wrong) + "\n"
        with pytest.raises(StorageError, match=r"r\.jsonl: line 2: ") as caught:
            read_valid_records(self.write(tmp_path, lines))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


class TestProvenance:
    @pytest.fixture
    def tree(self, tmp_path):
        for name in ("refsys/a.py", "bench/b.py", "bench/sweeps/s.toml", "analysis/c.py"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
        git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", "one"], check=True)
        return tmp_path

    def source(self, tree):
        provenance.source_sha256.cache_clear()
        return provenance.source_sha256(tree)

    def test_source_hash_changes_with_measuring_files_alone(self, tree):
        before = self.source(tree)
        for name in ("analysis/c.py", "bench/sweeps/s.toml"):
            (tree / name).write_text("x = 2\n", encoding="utf-8")
            assert self.source(tree) == before
        (tree / "refsys/a.py").write_text("x = 2\n", encoding="utf-8")
        assert self.source(tree) != before

    def test_git_state_is_clean_when_only_results_differ(self, tree):
        clean = provenance.git_state(tree)
        assert clean.dirty is False
        assert len(clean.sha) == 40
        (tree / "results").mkdir()
        (tree / "results/x").write_text("", encoding="utf-8")
        assert provenance.git_state(tree).dirty is False
        (tree / "refsys/new.py").write_text("", encoding="utf-8")
        dirty = provenance.git_state(tree)
        assert dirty.dirty is True
        assert dirty.diff_sha256

    def test_git_state_of_a_copy_is_that_of_its_stamp(self, tree, tmp_path):
        state = provenance.git_state(tree)
        stamp = asdict(state) | {"source_sha256": self.source(tree)}
        (tree / provenance.STAMP).write_text(json.dumps(stamp), encoding="utf-8")
        subprocess.run(["rm", "-rf", str(tree / ".git")], check=True)
        assert provenance.git_state(tree) == state
        (tree / "refsys/a.py").write_text("x = 3\n", encoding="utf-8")
        assert self.source(tree) != stamp["source_sha256"]
        changed = provenance.git_state(tree)
        assert (changed.sha, changed.dirty) == (state.sha, True)
        (tree / provenance.STAMP).write_text("[]", encoding="utf-8")
        assert provenance.git_state(tree) == GitState()

    def test_environment_holds_measuring_variables_alone(self):
        variables = {"CUDA_X": "1", "AWS_SECRET": "2", "OMP_NUM_THREADS": "3", "CUDA_HOME": "4"}
        found = provenance.environment(variables)
        assert found == {"CUDA_X": "1", "OMP_NUM_THREADS": "3"}


class TestPromotion:
    def clean(self, number, **git):
        return a_record(number, git=GIT | git)

    def write(self, tmp_path, *records):
        path = tmp_path / "r.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
        return str(path)

    def test_promote_copies_records_once(self, tmp_path, capsys):
        path = self.write(tmp_path, self.clean(1), self.clean(2), self.clean(1))
        results = str(tmp_path / "results")
        command = ["promote", path, "--name", "laptop", "--results", results]
        for expected in ("2 records added", "0 records added"):
            assert main(command) == 0
            assert expected in capsys.readouterr().out
        assert len(read_records([tmp_path / "results/recorded/laptop.jsonl"])) == 2

    def test_promote_refuses_records_of_no_commit(self, tmp_path, capsys):
        path = self.write(tmp_path, self.clean(1, dirty=True), self.clean(2, sha=None))
        command = ["promote", path, "--name", "x", "--results", str(tmp_path / "results")]
        assert main(command) == 2
        assert "2 of 2 records are of source that no commit here holds" in capsys.readouterr().err
        assert main([*command, "--allow-dirty"]) == 0

    def test_promote_refuses_workloads_of_other_packages(self, tmp_path, capsys):
        foreign = a_record(1)
        foreign["workload"] = foreign["workload"] | {"source_sha256": "1" * 64}
        path = self.write(tmp_path, foreign)
        assert main(["promote", path, "--name", "x", "--results", str(tmp_path / "results")]) == 2
        assert "1 of 1 records" in capsys.readouterr().err

    def test_promote_takes_records_of_the_named_commit(self, tmp_path, capsys):
        path = self.write(tmp_path, self.clean(1, sha="a" * 40), self.clean(2, sha="b" * 40))
        command = ["promote", path, "--name", "x", "--results", str(tmp_path / "results")]
        assert main([*command, "--commit", "bbbb"]) == 0
        (found,) = read_records([tmp_path / "results/recorded/x.jsonl"])
        assert found.git.sha == "b" * 40
        assert main([*command, "--commit", "cc"]) == 2
        assert "no records of commit cc" in capsys.readouterr().err

    def test_promote_refuses_a_commit_prefix_of_several_commits(self, tmp_path, capsys):
        path = self.write(tmp_path, self.clean(1, sha="ab" * 20), self.clean(2, sha="ac" * 20))
        command = ["promote", path, "--name", "x", "--results", str(tmp_path / "results")]
        assert main([*command, "--commit", "a"]) == 2
        assert "--commit a is ambiguous: abababababab, acacacacacac" in capsys.readouterr().err
        assert main([*command, "--commit", "AB"]) == 0

    def test_promote_takes_a_commit_by_a_name_that_git_knows(self, tmp_path, capsys, monkeypatch):
        (tmp_path / "tree").mkdir()
        commit = make_repository(tmp_path / "tree")
        monkeypatch.setattr(provenance, "ROOT", tmp_path / "tree")
        source = provenance.commit_source_sha256(Repository(tmp_path / "tree"), commit)
        sound = self.clean(1, sha=commit) | {"source_sha256": source}
        path = self.write(tmp_path, sound, self.clean(2, sha="b" * 40))
        command = ["promote", path, "--name", "x", "--results", str(tmp_path / "results")]
        assert main([*command, "--commit", "main"]) == 0
        assert "1 records added" in capsys.readouterr().out
        assert main([*command, "--commit", "none"]) == 2
        assert "--commit none: " in capsys.readouterr().err

    def test_promote_refuses_records_of_other_source_than_their_commit_has(
        self, tmp_path, capsys, monkeypatch
    ):
        (tmp_path / "tree").mkdir()
        commit = make_repository(tmp_path / "tree")
        monkeypatch.setattr(provenance, "ROOT", tmp_path / "tree")
        path = self.write(tmp_path, self.clean(1, sha=commit))
        command = ["promote", path, "--name", "x", "--results", str(tmp_path / "results")]
        assert main(command) == 2
        assert f"records of commit {commit[:12]} are of other source" in capsys.readouterr().err
        assert main([*command, "--allow-dirty"]) == 0

    @pytest.mark.parametrize("name", ["../x", "", "a/b"])
    def test_promote_refuses_a_name_with_folders(self, tmp_path, name, capsys):
        path = self.write(tmp_path, self.clean(1))
        assert main(["promote", path, "--name", name]) == 2
        assert "expected a file name" in capsys.readouterr().err
