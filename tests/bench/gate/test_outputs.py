"""Files that the gates write (Markdown, JUnit), and the recipes for CI systems."""

import os
import re
import shlex
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bench.cli import _parser, main
from bench.gate.exact.comparison import Change
from bench.gate.exact.outcome import of_another_torch, of_changes
from bench.gate.junit import junit
from bench.gate.markdown import markdown
from bench.gate.outcome import AMBIGUOUS, FAIL, PASS, SKIPPED, Item, Outcome

ROOT = Path(__file__).resolve().parents[3]
WORKFLOW = ROOT / ".github" / "workflows" / "gates.yml"
SCRIPT = ROOT / "docs" / "ci" / "foldperf.sh"
COLUMNS = ("before", "after")

texts = st.text(st.characters(codec="utf-8"), max_size=40)
items = st.builds(
    Item,
    case=texts,
    name=texts,
    verdict=st.sampled_from((PASS, FAIL, AMBIGUOUS, SKIPPED)),
    message=texts,
    details=st.lists(texts, max_size=30).map(tuple),
    figures=st.one_of(st.just(()), st.tuples(texts, texts)),
)
outcomes = st.builds(
    Outcome,
    gate=st.sampled_from(("exact", "timing")),
    verdict=st.sampled_from((PASS, FAIL, AMBIGUOUS)),
    headline=texts,
    columns=st.just(COLUMNS),
    items=st.lists(items, max_size=6).map(tuple),
    notes=st.lists(texts, max_size=3).map(tuple),
)


class TestJunit:
    @given(outcomes)
    def test_junit_is_valid_for_any_case_title(self, outcome):
        root = ET.fromstring(junit(outcome, 1.5))
        (suite,) = root
        cases = suite.findall("testcase")
        assert len(cases) == len(outcome.items) == int(suite.get("tests"))
        for item, case in zip(outcome.items, cases, strict=True):
            failed, skipped = case.find("failure") is not None, case.find("skipped") is not None
            assert failed == (item.verdict == FAIL)
            assert skipped == (item.verdict in {AMBIGUOUS, SKIPPED})
        assert int(suite.get("failures")) == len(suite.findall("testcase/failure"))
        assert int(suite.get("skipped")) == len(suite.findall("testcase/skipped"))

    def test_junit_contains_names_and_messages(self):
        item = Item(case='a<b & "c"', name="f", verdict=FAIL, message="1 -> 2", details=("x",))
        outcome = Outcome(gate="timing", verdict=FAIL, headline="h", items=(item,))
        (case,) = ET.fromstring(junit(outcome, 0)).iter("testcase")
        assert case.get("classname") == 'foldperf.timing.a<b & "c"'
        assert case.find("failure").get("message") == "1 -> 2"
        assert case.find("failure").text == "1 -> 2\nx"

    def test_ambiguous_cell_is_skipped_with_its_message(self):
        outcome = of_another_torch("2.99", "2.13")
        (case,) = ET.fromstring(junit(outcome, 0)).iter("testcase")
        assert "AMBIGUOUS: the baseline is of torch 2.99" in case.find("skipped").get("message")


class TestMarkdown:
    @given(outcomes)
    def test_every_row_has_the_columns_of_its_header(self, outcome):
        rows = [line for line in markdown(outcome).splitlines() if line.startswith("|")]
        widths = {len(re.split(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows}
        assert widths <= {2 + 3 + len(COLUMNS)}
        assert len([row for row in rows if row.startswith("| ❌ FAIL")]) == sum(
            item.verdict == FAIL for item in outcome.items
        )

    @given(outcomes)
    def test_markdown_escapes_titles_and_messages(self, outcome):
        lines = markdown(outcome).splitlines()
        ours = ("<details>", "</details>", "<summary>")
        assert not [line for line in lines if "<" in line and not line.startswith(ours)]

    def test_markdown_lists_failures_before_passed_cases(self):
        changes = [Change("b", "forward calls", "block", "aten.mm", 1, 2)]
        text = markdown(of_changes(["a", "b"], changes))
        assert text.startswith("### ❌ foldperf exact gate: FAIL\n")
        assert text.index("| ❌ FAIL | b |") < text.index("| ✅ PASS | a |")
        assert "- block aten.mm: forward calls 1 -&gt; 2 (+1, +100.00 %)" in text


class TestCommandLine:
    """Exact gate, which is quick; the test of the timing gate checks its files."""

    CHEAP = ("gate", "--only", "pipeline", "--jobs", "1")

    def test_summary_is_appended_and_the_junit_file_replaced(self, tmp_path):
        summary, results = tmp_path / "summary.md", tmp_path / "results.xml"
        summary.write_text("before\n", encoding="utf-8")
        results.write_text("before", encoding="utf-8")
        assert main([*self.CHEAP, "--markdown", str(summary), "--junit", str(results)]) == 0
        assert summary.read_text(encoding="utf-8").startswith(
            "before\n### ✅ foldperf exact gate: PASS\n"
        )
        (case,) = ET.parse(results).iter("testcase")
        assert (case.get("name"), len(case)) == ("costs", 0)

    def test_unwritable_file_is_one_line_after_the_verdict(self, tmp_path, capsys):
        (tmp_path / "file").write_text("", encoding="utf-8")
        for option in ("--junit", "--markdown"):
            assert main([*self.CHEAP, option, str(tmp_path / "file" / "x")]) == 2
            said = capsys.readouterr()
            assert said.out.startswith("PASS: ")
            assert said.err.startswith(f"foldperf: {tmp_path / 'file'}")
            assert said.err.count("\n") == 1


def workflow_commands():
    """The shell lines of every step, with the variables of its environment."""
    for job in yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"].values():
        for step in job["steps"]:
            yield from (line for line in step.get("run", "").splitlines() if line.strip())


def gate_commands(lines):
    """Each ``foldperf gate ...`` as words, shell expansions replaced by a word."""
    for line in lines:
        if "foldperf gate" in line:
            command = re.sub(r'"\$\(.*?\)"|"\$\w+[^"]*"|"\$@"', "word", line.split("||")[0])
            yield shlex.split(command)


class TestRecipes:
    def test_workflow_has_two_jobs_that_keep_their_junit_files(self):
        jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
        assert set(jobs) == {"exact", "timing"}
        for name, job in jobs.items():
            (kept,) = [s for s in job["steps"] if "upload-artifact" in s.get("uses", "")]
            assert kept["if"] == "always()"
            assert kept["with"]["path"] == f"gate-{name}.xml"
        (checkout, *_) = jobs["timing"]["steps"]
        assert checkout["with"]["fetch-depth"] == 0

    @pytest.mark.parametrize("recipe", ["workflow", "script"])
    def test_recipe_has_valid_commands(self, recipe):
        lines = (
            workflow_commands()
            if recipe == "workflow"
            else SCRIPT.read_text(encoding="utf-8").splitlines()
        )
        found = [words for words in gate_commands(lines) if words[0] == "foldperf"]
        assert len(found) == 2
        parser, _ = _parser()
        for words in found:
            # The script's own options stand at the end.
            chosen = parser.parse_args(words[1:-1] if recipe == "script" else words[1:])
            assert chosen.markdown
            assert chosen.junit
        assert ["--timing" in words for words in found] == [False, True]

    @pytest.fixture
    def run_script(self, tmp_path):
        """Run the script on commands that record their arguments."""
        commands, log = tmp_path / "commands", tmp_path / "log"
        commands.mkdir()
        who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        for words in (("init", "-q"), (*who, "commit", "-q", "--allow-empty", "-m", "one")):
            subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
        for name in ("foldperf", "python"):
            (commands / name).write_text(
                f'#!/bin/sh\necho "{name} $*" >> {log}\n'
                'case "$*" in *--timing*) exit "$TIMING";; gate*) exit "$EXACT";; esac\n'
                'test "$*" != "$BREAKS"\n',
                encoding="utf-8",
            )
            (commands / name).chmod(0o755)

        def run(*options, stdout=subprocess.PIPE, **variables):
            done = subprocess.run(
                ["sh", str(SCRIPT), *options],
                cwd=tmp_path,
                env={"PATH": f"{commands}:{os.environ['PATH']}", "EXACT": "0", "TIMING": "0"}
                | {"BREAKS": "", "BASE": "HEAD"}
                | variables,
                stdout=stdout,
                stderr=subprocess.PIPE,
                check=False,
            )
            return done.returncode, log.read_text(encoding="utf-8").splitlines()

        return run

    @pytest.mark.parametrize(
        ("exact", "timing", "expected"),
        [(0, 0, 0), (0, 3, 0), (3, 0, 0), (1, 0, 1), (0, 1, 1), (3, 1, 1), (2, 1, 2), (1, 2, 2)],
    )
    def test_scripts_status_is_the_worst_and_3_is_neutral(
        self, run_script, exact, timing, expected
    ):
        status, _ = run_script(EXACT=str(exact), TIMING=str(timing))
        assert status == expected

    def test_script_has_the_same_status_when_its_reader_leaves(self, run_script):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, encoding="utf-8") as stdout:
            status, _ = run_script(EXACT="3", TIMING="1", stdout=stdout)
        assert status == 1

    def test_script_installs_runs_both_gates_and_passes_its_options_on(self, run_script, tmp_path):
        status, log = run_script("--only", "tiny", REPORTS="out")
        assert status == 0
        assert [line.split()[0] for line in log] == ["python"] * 2 + ["foldperf"] * 4
        exact, timing = [line for line in log if "gate" in line]
        assert exact.endswith("--junit out/exact.xml --only tiny")
        assert re.search(r"--against [0-9a-f]{40} ", timing)
        assert (tmp_path / "out" / "summary.md").exists()

    def test_failed_installation_is_a_fault(self, run_script):
        breaks = "-m pip install --constraint constraints.txt torch"
        assert run_script(BREAKS=breaks) == (2, [f"python {breaks}"])

    def test_base_that_does_not_exist_is_a_fault(self, run_script):
        status, log = run_script(BASE="none")
        assert status == 2
        assert not [line for line in log if "--timing" in line]

    def test_exact_gate_of_the_script_runs(self, tmp_path):
        """Run on the cheapest cases."""
        (line,) = [
            line
            for line in SCRIPT.read_text(encoding="utf-8").splitlines()
            if line.startswith("foldperf gate --m")
        ]
        words = shlex.join(("--only", "trunk preset=tiny", "--jobs", "1"))
        command = line.replace("$REPORTS", str(tmp_path)).replace('"$@"', words)
        assert main(shlex.split(command)[1:]) == 0
        assert ET.parse(tmp_path / "exact.xml").getroot().get("failures") == "0"
        assert "PASS" in (tmp_path / "summary.md").read_text(encoding="utf-8")
