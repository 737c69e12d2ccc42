"""The type of a record: it agrees with the JSON Schema, and nothing is lost between the two."""

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.measured import measured
from support.records import VALIDATOR, a_record

from bench.devices.device import Description
from bench.records import migration
from bench.records.metrics import METRICS
from bench.records.migration import EARLIER, migrate
from bench.records.origin import GitState, Host, Origin
from bench.records.reading import SCHEMA_FILE, parse_record, read_valid_records
from bench.records.record import (
    SCHEMA,
    STATUSES,
    CaseResult,
    Metric,
    Record,
    RecordedCosts,
    RecordedDevice,
    RecordedProtocol,
    RecordedWorkload,
)
from bench.records.structure import from_json
from workloads.workload import StaticCosts

RECORDED = Path(__file__).resolve().parents[3] / "results" / "recorded"
LINES = [
    line for path in sorted(RECORDED.glob("*.jsonl")) for line in path.read_bytes().split(b"\n")
]
RECORDS = [json.loads(line) for line in filter(None, LINES)]
EARLIER_RECORDS = [record for record in RECORDS if record["schema"] == EARLIER]
TABLE = json.loads(SCHEMA_FILE.read_bytes())
PARTS = {
    "workload": RecordedWorkload,
    "facts": RecordedCosts,
    "git": GitState,
    "host": Host,
    "protocol": RecordedProtocol,
}


def names(kind):
    return {field.name for field in fields(kind)}


def schema_of(part):
    tables = {"device": TABLE["properties"]["devices"]["items"], "metric": TABLE["$defs"]["metric"]}
    return tables.get(part) or TABLE["properties"][part]


@pytest.mark.parametrize(
    ("part", "kind"), [*PARTS.items(), ("device", RecordedDevice), ("metric", Metric)]
)
def test_fields_of_a_part_are_those_of_the_schema(part, kind):
    schema = schema_of(part)
    assert names(kind) == set(schema["required"]) == set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_fields_of_a_record_are_those_of_the_schema():
    assert names(Record) | {"schema"} == set(TABLE["required"]) == set(TABLE["properties"])
    assert names(CaseResult) | names(Origin) < names(Record)
    assert TABLE["properties"]["schema"]["const"] == SCHEMA
    assert TABLE["properties"]["status"]["enum"] == list(STATUSES)


def test_recorded_parts_have_the_fields_of_their_sources():
    assert names(RecordedCosts) == names(StaticCosts)
    assert names(RecordedDevice) == names(Description)


@pytest.mark.parametrize("table", [a_record(1), measured(64), measured(64, ranks=2)])
def test_record_survives_the_round_trip(table):
    record = Record.from_dict(table)
    assert record.as_dict() == table
    assert Record.from_dict(json.loads(json.dumps(record.as_dict()))) == record
    assert list(record.as_dict()) == list(TABLE["properties"])
    with pytest.raises(AttributeError, match="cannot assign"):
        record.status = "ok"


class TestMigration:
    def test_recorded_files_of_both_schemas_are_read(self):
        assert {record["schema"] for record in RECORDS} == {EARLIER, SCHEMA}
        records = read_valid_records([RECORDED])
        assert [record.run_id for record in records] == [r["run_id"] for r in RECORDS]

    def test_migration_adds_fields_and_changes_none(self):
        for earlier in EARLIER_RECORDS:
            before = copy.deepcopy(earlier)
            migrated = migrate(earlier)
            assert earlier == before, "the argument is unchanged"
            VALIDATOR.validate(migrated)
            assert Record.from_dict(migrated).as_dict() == migrated
            restored = migrated | {"metrics": with_earlier_names(migrated["metrics"])}
            assert without_additions(restored, earlier) == earlier | {"schema": SCHEMA}

    def test_every_metric_of_an_earlier_record_has_a_current_name(self):
        names = {name for earlier in EARLIER_RECORDS for name in migrate(earlier)["metrics"]}
        assert {name.split(".")[0] for name in names} <= METRICS.keys()

    def test_migration_leaves_current_records_as_they_are(self):
        assert migrate(a_record(1)) is not None
        assert migrate(a_record(1)) == a_record(1)

    @pytest.mark.parametrize("part", ["git", "host", "protocol", "facts"])
    def test_migration_without_a_part_is_refused(self, part, monkeypatch):
        line = json.dumps(EARLIER_RECORDS[0]).encode()
        assert parse_record(line)
        defaults = {name: values for name, values in migration._DEFAULTS.items() if name != part}
        monkeypatch.setattr(migration, "_DEFAULTS", defaults)
        assert parse_record(line) is None

    @pytest.mark.parametrize("part", ["git", "host", "protocol", "devices", "metrics"])
    def test_damaged_part_of_an_earlier_record_is_named(self, part, tmp_path):
        path = tmp_path / "r.jsonl"
        path.write_text(json.dumps(EARLIER_RECORDS[0] | {part: 3}) + "\n", encoding="utf-8")
        with pytest.raises(Exception, match=f"line 1: {part}: 3 is not of type"):
            read_valid_records([path])


def with_earlier_names(metrics):
    """Return metrics under the names of the earlier schema."""
    earlier = {new: old for old, new in migration._RENAMED.items()}
    return {
        ".".join([earlier.get(name.split(".")[0], name.split(".")[0]), *name.split(".")[1:]]): value
        for name, value in metrics.items()
    }


def without_additions(value: Any, earlier: Any) -> Any:
    """Return a value without the keys that its earlier form lacks."""
    if isinstance(value, dict):
        return {name: without_additions(value[name], earlier[name]) for name in earlier}
    if isinstance(value, list):
        return [without_additions(*pair) for pair in zip(value, earlier, strict=True)]
    return value


DAMAGES = {
    "missing field": (lambda r: r["host"].pop("cpu"), "record.host: field cpu is missing"),
    "unknown field": (lambda r: r["git"].update(x=1), "record.git: field x is unknown"),
    "text for a number": (lambda r: r.update(replicate="0"), "record.replicate: '0' is not int"),
    "true for a number": (lambda r: r.update(replicate=True), "record.replicate: 'True' is not"),
    "null": (lambda r: r.update(sweep=None), "record.sweep: 'None' is not str"),
    "another choice": (lambda r: r.update(status="fine"), "record.status: 'fine' is not one of ok"),
    "number for a list": (lambda r: r.update(devices=3), "record.devices: '3' is not an array"),
    "list for an object": (
        lambda r: r.update(metrics=[]),
        "record.metrics: '\\[\\]' is not an obj",
    ),
    "deep": (
        lambda r: r["metrics"]["step_time_s"].update(samples=[1.0, "x"]),
        "record.metrics.step_time_s.samples: 'x' is not float",
    ),
    "two bounds": (
        lambda r: r["metrics"]["step_time_s"].update(ci=[1.0, 2.0]),
        "record.metrics.step_time_s.ci: .* is not an array of 3",
    ),
    "another schema": (lambda r: r.update(schema="x/1"), "schema: 'x/1' is not foldperf.record/2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_from_dict_names_the_field_that_is_wrong(damage):
    change, message = DAMAGES[damage]
    table = copy.deepcopy(measured(64))
    change(table)
    with pytest.raises(ValueError, match=message):
        Record.from_dict(table)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda items: st.lists(items, max_size=3) | st.dictionaries(st.text(max_size=5), items),
    max_leaves=8,
)


@given(st.sampled_from(sorted(a_record(1))), JSON)
def test_from_dict_returns_a_record_or_raises_value_error(name, value):
    table = a_record(1) | {name: value}
    try:
        record = Record.from_dict(table)
    except ValueError:
        return
    assert record.as_dict() == table


def test_value_is_the_figure_or_none():
    record = Record.from_dict(measured(64))
    assert record.value("step_time_s") == record.metrics["step_time_s"].value
    assert record.value("energy_per_step_j") is None
    assert record.value("no metric of that name") is None


def test_result_without_parts_has_empty_ones():
    result = CaseResult.from_dict({"status": "oom", "reason": "too large"})
    assert result == CaseResult(status="oom", reason="too large")
    with pytest.raises(ValueError, match="field status is missing"):
        CaseResult.from_dict({"reason": "too large"})
    with pytest.raises(ValueError, match="field seconds is unknown"):
        CaseResult.from_dict({"status": "oom", "seconds": 1})


def test_type_without_a_form_in_json_is_refused():
    with pytest.raises(TypeError, match="has no form in JSON"):
        from_json(set[str], [])
    with pytest.raises(TypeError, match="has no form in JSON"):
        from_json(tuple[str, ...] | dict[str, int], [])
