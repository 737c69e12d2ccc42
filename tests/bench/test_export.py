"""Export of records as one table."""

import json

import pandas as pd
import pytest
from support.measured import failed, measured

from analysis.frame import frame
from analysis.nested import metric_values
from analysis.table import exported
from bench.cli import main

RECORDS = [measured(32), measured(64, ranks=2), failed(128, "oom")]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "runs" / "records.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{json.dumps(record)}\n" for record in RECORDS), encoding="utf-8")
    return path


def test_parquet_is_the_dataframe_of_the_records(file, tmp_path, capsys):
    out = tmp_path / "new" / "records.parquet"
    assert main(["export", "parquet", str(file), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"3 rows of 3 records in {out}\n"
    table = exported(frame(RECORDS))
    pd.testing.assert_frame_equal(pd.read_parquet(out), table, check_categorical=False)


def test_long_csv_has_a_row_for_each_metric(file, tmp_path):
    assert main(["export", "csv", "--long", "--results", str(tmp_path)]) == 0
    read = pd.read_csv(tmp_path / "records.csv")
    values = metric_values(frame(RECORDS))
    assert read["metric"].tolist() == values["metric"].tolist()
    assert read["value"].dropna().tolist() == values["value"].dropna().tolist()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["csv", "{empty}"], "no records to export"),
        (["csv", "{file}", "--out", "{file}/inside.csv"], "inside.csv: "),
        (["asv", "--long"], "leave out --long, or export csv"),
        (["csv", "none.jsonl"], "none.jsonl: No such file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(file, tmp_path, capsys, words, message):
    (tmp_path / "empty").mkdir()
    names = {"file": file, "empty": tmp_path / "empty"}
    assert main(["export", *(word.format(**names) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_valid_records_of_damaged_files_are_exported_with_status_2(file, tmp_path, capsys):
    with file.open("a", encoding="utf-8") as records:
        records.write("{}\n")
    out = tmp_path / "records.csv"
    assert main(["export", "csv", str(file), "--out", str(out)]) == 2
    assert "records.jsonl: line 4: not a record" in capsys.readouterr().err
    assert pd.read_csv(out)["status"].tolist() == ["ok", "ok", "oom"]
