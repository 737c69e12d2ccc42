"""Results of case processes that are not of the expected form."""

import pytest

from bench.run.isolation import Ended
from bench.run.time_limits import TimeLimit
from bench.run.verdict import verdict

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
    path = tmp_path / "result.json.0"
    path.write_text(text, encoding="utf-8")
    found = verdict(Ended(0, None, 1.0, 0, ""), [path], TimeLimit(60.0, None), 2**30, ["host"])
    assert found == {"status": "crash", "reason": reason}
