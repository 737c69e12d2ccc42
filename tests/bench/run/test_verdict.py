"""Verdict on a case: a complete result, or a crash with the fault in words."""

import copy
import json

import pytest
from support.measured import measured

from bench.run.isolation import Ended
from bench.run.time_limits import TimeLimit
from bench.run.verdict import verdict

PARTS = ("metrics", "facts", "telemetry", "outcome", "breakdown", "notes")
RESULT = {"status": "ok", "reason": None} | {part: measured(64)[part] for part in PARTS}
ENDED = Ended(status=0, cause=None, seconds=1.0, peak_resident_bytes=2**20, output="last words")


def verdict_on(tmp_path, content):
    path = tmp_path / "result.0"
    path.write_text(content, encoding="utf-8")
    return verdict(ENDED, [path], TimeLimit(5.0, None), 2**30, ["host"])


def test_verdict_has_every_part_of_a_valid_result(tmp_path):
    result = verdict_on(tmp_path, json.dumps(RESULT))
    assert (result.status, result.reason) == ("ok", None)
    assert result.metrics["step_time_s"].value == RESULT["metrics"]["step_time_s"]["value"]
    assert dict(result.breakdown) == RESULT["breakdown"]


DAMAGES = {
    "missing part": lambda r: r.pop("notes"),
    "unknown part": lambda r: r.update(seconds=1),
    "missing status": lambda r: r.pop("status"),
    "no facts": lambda r: r.update(facts=None),
    "no step time": lambda r: r["metrics"].pop("step_time_s"),
    "incomplete metric": lambda r: r["metrics"]["step_time_s"].pop("n"),
    "text for a figure": lambda r: r.update(outcome={"loss": "small"}),
    "list for a table": lambda r: r.update(breakdown=[]),
    "failure without a reason": lambda r: r.update(status="oom"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_malformed_result_is_a_crash(tmp_path, damage):
    result = copy.deepcopy(RESULT)
    DAMAGES[damage](result)
    found = verdict_on(tmp_path, json.dumps(result))
    assert (found.status, dict(found.metrics)) == ("crash", {})
    assert found.reason == "its result is not of the expected form; it last said: last words"


@pytest.mark.parametrize("content", ["[]", "3", "null"])
def test_result_that_is_not_an_object_is_a_crash(tmp_path, content):
    assert verdict_on(tmp_path, content).status == "crash"


def test_failure_keeps_its_reason_and_no_figures(tmp_path):
    failure = RESULT | {"status": "unsupported", "reason": "no such kernel"}
    found = verdict_on(tmp_path, json.dumps(failure))
    assert (found.status, found.reason) == ("unsupported", "no such kernel")
    assert found.facts is None
    assert not found.metrics


NOT_JSON, OTHER_FORM = "its result is not JSON", "its result is not of the expected form"
NOTHING = '"telemetry": {}, "facts": {}, "outcome": {}, "breakdown": {}, "notes": {}'
MALFORMED = {
    "text": ("\x00 not json {", NOT_JSON),
    "empty": ("", NOT_JSON),
    "not finite": ('{"status": "ok", "outcome": {"loss": NaN}}', NOT_JSON),
    "list": ("[1, 2]", OTHER_FORM),
    "wrong status": ('{"status": "splendid"}', OTHER_FORM),
    "no figures": (f'{{"status": "ok", "metrics": {{}}, {NOTHING}}}', OTHER_FORM),
    "wrong metrics": (f'{{"status": "ok", "metrics": {{"a": 1}}, {NOTHING}}}', OTHER_FORM),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_result_is_a_crash_with_its_reason(name, tmp_path):
    text, reason = MALFORMED[name]
    result = verdict_on(tmp_path, text)
    assert result.status == "crash"
    assert result.reason == f"{reason}; it last said: last words"
