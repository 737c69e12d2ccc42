"""Outcome of a gate as a JUnit file, which CI systems show test by test."""

import re
import xml.etree.ElementTree as ET

from bench.gate.outcome import AMBIGUOUS, FAIL, SKIPPED, Outcome

# Characters that XML 1.0 cannot hold, escaped or not.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(outcome: Outcome, seconds: float) -> bytes:
    """Return a JUnit file with a test case for each item; AMBIGUOUS and SKIPPED are skipped.

    Args:
        outcome: Outcome of the gate.
        seconds: Duration of the gate.
    """
    verdicts = [item.verdict for item in outcome.items]
    counts: dict[str, str] = {
        "tests": str(len(verdicts)),
        "failures": str(verdicts.count(FAIL)),
        "errors": "0",
        "skipped": str(verdicts.count(AMBIGUOUS) + verdicts.count(SKIPPED)),
        "time": f"{seconds:.3f}",
    }
    root = ET.Element("testsuites", {"name": "foldperf"} | counts)
    suite = ET.SubElement(root, "testsuite", {"name": f"foldperf {outcome.gate} gate"} | counts)
    for item in outcome.items:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_text(f"foldperf.{outcome.gate}.{item.case}"),
            name=_text(item.name),
        )
        if item.verdict == FAIL:
            failure = ET.SubElement(case, "failure", type="regression", message=_text(item.message))
            failure.text = _text("\n".join((item.message, *item.details)))
        elif item.verdict in {AMBIGUOUS, SKIPPED}:
            ET.SubElement(case, "skipped", message=_text(f"{item.verdict}: {item.message}"))
    out = ET.SubElement(suite, "system-out")
    out.text = _text("\n".join((f"{outcome.verdict}: {outcome.headline}", *outcome.notes)))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
