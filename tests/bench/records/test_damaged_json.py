"""Damaged JSON files of the project: an error names file and line, and valid records are used."""

import json
import shutil

import pytest
from support.records import GIT, a_record

from bench.cli import main
from bench.errors import StorageError, UsageError
from bench.gate.exact.comparison import read_baseline
from bench.records.reading import read_all_records, read_valid_records
from refsys.files import parse_json


def line_of(number, **more):
    return json.dumps(a_record(number, git=GIT | {"dirty": True}) | more)


def with_git(**fields):
    return line_of(2, git=GIT | fields)


def with_workload(**fields):
    return line_of(2, workload=a_record(2)["workload"] | fields)


DAMAGES = {
    "time in words": (with_git(commit_time="yesterday"), "git.commit_time: 'yesterday' is not"),
    "time without a zone": (with_git(commit_time="2026-01-01T00:00:00"), "git.commit_time: "),
    "time beyond the calendar": (
        line_of(2, started_at="2026-13-01T00:00:00+00:00"),
        "started_at: ",
    ),
    "number as a time": (with_git(commit_time=5), "git.commit_time: 5 is not of type"),
    "tokens in words": (with_workload(labels={"tokens": "many"}), "workload.labels.tokens: 'many'"),
    "null": (line_of(2, host=None), "host: None is not of type 'object'"),
    "another status": (line_of(2, status="fine"), "status: 'fine' is not one of"),
    "a key that is no text": (line_of(2, key=[]), "key: [] is not of type 'string'"),
    "NaN": (line_of(2, duration_s=float("nan")), "NaN is not JSON"),
    "infinity": (line_of(2).replace("1.5", "1e999"), "1e999 is beyond the range of float64"),
    "huge integer": (line_of(2, replicate=10**40), "an integer of 41 digits"),
    "key twice": (line_of(2)[:-1] + ', "key": "x"}', "'key' stands twice in one object"),
    "nesting": ("[" * 100_000, "nested too deeply"),
    "half of a pair": (line_of(2, sweep="\ud800"), "surrogates not allowed"),
    "no text": (b"\xff\xfe", "invalid start byte"),
    "another thing": ("[1]", "not a record of foldperf.record/2"),
    "folder for a name": (
        line_of(2, host=a_record(2)["host"] | {"hostname_hash": "../x"}),
        "host.",
    ),
}


@pytest.fixture
def write(tmp_path):
    """Write record files into a folder and return it."""

    def write(**files):
        folder = tmp_path / "records"
        folder.mkdir()
        for name, lines in files.items():
            parts = [line if isinstance(line, bytes) else line.encode() for line in lines]
            (folder / f"{name}.jsonl").write_bytes(b"\n".join(parts) + b"\n")
        return folder

    return write


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_named_by_file_and_line_and_the_others_are_read(write, damage):
    line, message = DAMAGES[damage]
    folder = write(a=[line_of(1), line, line_of(3)], b=[line_of(4)])
    reading = read_all_records([folder])
    assert [record.run_id for record in reading.records] == [f"{n:032x}" for n in (1, 3, 4)]
    (error,) = reading.errors
    assert str(error).startswith(f"{folder / 'a.jsonl'}: line 2: ")
    assert message in str(error)
    assert "\n" not in str(error)
    with pytest.raises(StorageError, match="line 2"):
        read_valid_records([folder])


def test_damaged_lines_of_a_file_are_one_error_that_counts_them(write):
    folder = write(a=["{", line_of(1), "{", "3"], b=["{"])
    errors = [str(error) for error in read_all_records([folder]).errors]
    assert len(errors) == 2
    assert errors[0].endswith("; and 2 more lines")
    assert "more lines" not in errors[1]


def test_blank_lines_line_ends_and_a_byte_order_mark_are_harmless(tmp_path):
    path = tmp_path / "r.jsonl"
    text = "\ufeff\n" + line_of(1) + "\r\n\r\n \t\n" + line_of(2) + "\n\n" + line_of(3)
    path.write_text(text, encoding="utf-8", newline="")
    assert len(read_valid_records([path])) == 3


def test_missing_file_does_not_stop_the_others(write, tmp_path):
    folder = write(a=[line_of(1)])
    reading = read_all_records([tmp_path / "none.jsonl", folder])
    assert len(reading.records) == 1
    assert "none.jsonl: No such file" in str(reading.errors[0])


class TestCommands:
    @pytest.fixture
    def folder(self, write):
        from bench.records.reading import SCHEMA_FILE

        recorded = SCHEMA_FILE.parents[2] / "results" / "recorded" / "demo-2-core-cpu.jsonl"
        sound = [json.loads(line) for line in recorded.read_text(encoding="utf-8").splitlines()[:2]]
        for record in sound:
            record["git"] = record["git"] | {"dirty": False}
        lines = [json.dumps(record) for record in sound]
        return write(bad=[with_git(commit_time="yesterday")], sound=lines)

    def test_export_writes_the_valid_records_and_has_status_2(self, folder, tmp_path, capsys):
        assert main(["export", "asv", str(folder), "--out", str(tmp_path / "asv")]) == 2
        captured = capsys.readouterr()
        assert captured.err == (
            f"foldperf: {folder / 'bad.jsonl'}: line 1: git.commit_time: 'yesterday' is not a "
            "'date-time'\n"
        )
        assert "figures in 1 file" in captured.out

    def test_report_shows_the_valid_records_and_has_status_2(
        self, folder, tmp_path, capsys, monkeypatch
    ):
        shown = []

        def write_report(records, out, **options):
            shown.extend(records)
            return out / "index.html"

        monkeypatch.setattr("analysis.report.write_report", write_report)
        assert main(["report", str(folder), "--out", str(tmp_path / "report")]) == 2
        captured = capsys.readouterr()
        assert "bad.jsonl: line 1: git.commit_time" in captured.err
        assert captured.err.count("\n") == 1
        assert len(shown) == 2
        assert captured.out == f"{tmp_path / 'report' / 'index.html'}\n"

    def test_promote_copies_nothing_from_damaged_files(self, folder, tmp_path, capsys):
        command = ["promote", str(folder), "--name", "x", "--results", str(tmp_path / "results")]
        assert main(command) == 2
        assert "bad.jsonl: line 1: git.commit_time" in capsys.readouterr().err
        assert not (tmp_path / "results").exists()

    def test_export_into_a_damaged_result_names_it_and_writes_the_others(
        self, folder, tmp_path, capsys
    ):
        out = tmp_path / "asv"
        main(["export", "asv", str(folder / "sound.jsonl"), "--out", str(out)])
        (path,) = (path for path in out.glob("*/*.json") if path.name != "machine.json")
        table = json.loads(path.read_text(encoding="utf-8"))
        for name in table["results"]:
            table["results"][name] = [[1.0], [["a", "b"], 3], table["results"][name][2]]
        path.write_text(json.dumps(table), encoding="utf-8")
        capsys.readouterr()
        assert main(["export", "asv", str(folder / "sound.jsonl"), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"{path}: not of asv's form: " in error
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": {"x": None}}, "not a baseline: TypeError"),
        ({"cases": []}, "not a baseline: AttributeError"),
        ({"torch": 2}, "torch is 2, not text"),
        ({"reason": None}, "reason is None, not text"),
        ({"schema": "α"}, "of schema α"),
    ],
)
def test_damaged_baseline_is_refused_by_its_path(tmp_path, change, message):
    path = tmp_path / "exact.json"
    table = {"schema": "foldperf.exact/1", "torch": "2.9", "reason": "x", "cases": {}}
    path.write_text(json.dumps(table | change), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_baseline(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", "1" * 30, '{"a":1,"a":1}', "[" * 9999]
)
def test_strict_json_refuses_values_that_the_project_never_writes(text):
    with pytest.raises(ValueError, match=r"JSON|float64|digits|twice|deeply"):
        parse_json(text.encode())


def test_strict_json_reads_standard_json():
    value = {"a": [1, -2.5, 1e300, None, True, "α\U0001f9ec"], "b": {}}
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_import_reads_the_valid_files(tmp_path, capsys):
    from support.own_json import other_files

    (content,) = (text for text, _ in other_files() if b"fullname" in text)
    sound, bad, odd = (tmp_path / f"{name}.json" for name in ("sound", "bad", "odd"))
    sound.write_bytes(content)
    bad.write_text("{", encoding="utf-8")
    table = json.loads(content)
    table["benchmarks"][0]["extra_info"]["foldperf"]["workload"]["ranks"] = "two"
    odd.write_text(json.dumps(table), encoding="utf-8")
    command = ["import", "pytest-benchmark", str(bad), str(odd), str(sound)]
    assert main([*command, "--results", str(tmp_path / "results")]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("1 records added to ")
    lines = captured.err.splitlines()
    assert len(lines) == 2
    assert "bad.json: not of pytest-benchmark" in lines[0]
    assert "odd.json: benchmark 1: workload.ranks: 'two' is not of type" in lines[1]
    shutil.rmtree(tmp_path / "results")
    assert main([*command[:-1], "--results", str(tmp_path / "results")]) == 2
    assert not (tmp_path / "results").exists()
