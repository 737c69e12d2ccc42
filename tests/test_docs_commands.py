"""Every command that the documentation or a help text shows is run, in a reader's folder.

Long commands are shortened (fewer steps, one sweep in place of several, one case of the gate) and
otherwise unchanged. Commands that are then equal run once, and commands that another test runs are
listed with that test.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module

import gemmi
import pytest
from support import HANG_S
from support.documents import PAGES, ROOT, commands_of, toml_blocks_of

from bench.cli import COMMANDS, _parser
from bench.records.provenance import STAMP
from bench.run.isolation import run_isolated
from bench.run.sweep import shipped_sweeps

DEMO = """
[protocol]
warmup_steps = 0
timed_steps = 3
energy_s = 1
[[case]]
workload = "alphafold3-trunk"
axes = { tokens = 16, entry = "1ubq" }
"""
# Stands for all sweeps whose specific cases are not under test, which are then one sweep.
SINGLE = """
[protocol]
warmup_steps = 0
timed_steps = 1
counts = false
[[case]]
workload = "operators"
axes = { operator = "layer_norm", preset = "tiny", tokens = 8 }
"""
# Pattern of a command -> the test that runs it.
ELSEWHERE = {
    r"make (demo|test)": "tests/test_docs_commands.py::test_demo_consists_of_documented_commands",
    r"foldperf prepare": "tests/conftest.py::everything",
    r"foldperf gate": (
        "tests/bench/gate/test_exact.py::test_every_preset_passes_from_the_command_line"
    ),
    r"foldperf gate --timing.*": (
        "tests/bench/gate/test_timing.py::test_planted_slowdown_fails_by_name_and_nothing_else_does"
    ),
    r"foldperf stamp": "tests/test_docs_commands.py::test_clone_is_stamped",
    r"pytest tests/benchmark .*": "tests/bench/records/test_pytest_benchmark.py::written",
    r"foldperf import pytest-benchmark .*": "tests/bench/records/test_pytest_benchmark.py::written",
    r"python examples/operators/.*": (
        "tests/examples/test_operators.py::test_example_reports_equal_results_of_both_operators"
    ),
    r"foldperf check-device --rehearse nvidia.*": (
        "tests/bench/check_device/test_command.py::test_every_stage_runs_in_a_rehearsal"
    ),
    r"foldperf tune operators .*": (
        "tests/bench/test_tuning.py::test_tune_command_replaces_damaged_results"
    ),
    r"asv .*": "tests/bench/test_asv.py::clone",
    r"foldperf report --retrace": (
        "tests/bench/simulation/test_retrace.py::test_equal_counts_give_status_0"
    ),
    r"foldperf report --published": "tests/test_wheel.py::test_report_has_the_published_numbers",
    r"make paper|foldperf report results/recorded --paper .*": (
        "tests/analysis/test_paper.py::test_command_draws_what_it_can_and_names_the_rest"
    ),
    r"python -m bench.simulation.paper_cases .*": (
        "tests/bench/simulation/test_paper_cases.py::test_cases_are_recorded_once"
    ),
    r"pip wheel .*": "tests/test_wheel.py::build",
}
SHIPPED = [name for name in shipped_sweeps() if name != "demo"]
# Shortened commands: a pattern and its replacement.
SHORTER = (
    (r"foldperf run demo\b", "foldperf run demo.toml"),
    (rf"foldperf run ({'|'.join(SHIPPED)})\b", "foldperf run single.toml"),
    # Elsewhere: an entry that is prepared anew may find other templates, and ends a training on it.
    (
        r"^foldperf prepare --for demo$",
        "foldperf prepare --for demo.toml --store for-demo --workers 0",
    ),
    (r"^(foldperf prepare --from .*)$", r"\1 --workers 0"),
    (r"^(foldperf train .*)--steps \d+", r"\1--steps 2 --tokens 16"),
    (r"^(foldperf train .*)--replay-step \d+", r"\1--replay-step 1 --tokens 16"),
    (r"^(foldperf fold .*)$", r"\1 --steps 2 --samples 1 --cycles 1"),
    (
        r"^foldperf simulate (\S+).*$",
        r"foldperf simulate \1 --preset tiny --tokens 16 --context-ranks 2 --json",
    ),
    (
        r"^(foldperf learn )--steps \d+ --out \S+",
        r"\1--draws 2 --steps 4 --tokens 16 --target 9 --out results/runs/learning",
    ),
    (
        r"^foldperf plan .*",
        "foldperf plan --tokens 16 --device h200 --goal training --preset tiny --alignment-rows 4"
        " --samples 2 --jobs 1",
    ),
    (r"^(foldperf frontier .*)--preset full", r"\1--preset tiny"),
    (r"^(foldperf frontier .*)$", r"\1 --most-tokens 32"),
    (r"--preset full", "--preset small"),
    (r"^foldperf check-device --budget 12$", "foldperf check-device --only versions step"),
    (r"^foldperf compile(?= --out|$)", "foldperf compile --only fold"),
    # One of its four kernels.
    (r"--only triangle_attention\b", "--only triangle_attention.delta"),
    # With the options of another command: one operator is compiled once.
    (
        r"^.*foldperf compile --warm .*$",
        "TRITON_CACHE_DIR=warm foldperf compile --warm --architecture sm_90 --at /home/me/warm"
        " --operators --only open_gate --tokens 384",
    ),
    # One command for both: a case is traced once.
    (
        r"^foldperf gate (--only transformer|--markdown .*)$",
        "foldperf gate --only pipeline --jobs 1 --markdown summary.md --junit gate-exact.xml",
    ),
    (
        r"^foldperf gate (--baseline \S+ )?--bless --reason .*",
        "foldperf gate --cases gate.toml --baseline exact.json --bless --reason 'what changed'",
    ),
    (r"--commit 0123abc", "--allow-dirty"),
    (r"^(foldperf promote .*)(?<!--allow-dirty)$", r"\1 --allow-dirty"),
    # Without what another command adds: all figures are plotted once.
    (r"^(foldperf report results/recorded --out paper/) --published$", r"\1"),
    (r"results/recorded\b(?!/)", "recorded"),
    (r"pip install ", f"{sys.executable} -m pip install --quiet --target site "),
)


def examples():
    """The examples of the commands' help texts."""
    for name, module in COMMANDS.items():
        for line in import_module(f"bench.cli.{module}").EXAMPLE.splitlines():
            yield name, line.strip()


def shortened(command):
    for pattern, replacement in SHORTER:
        command = re.sub(pattern, replacement, command)
    return command


@pytest.fixture(scope="module")
def reader(store, sources, command_server, tmp_path_factory):
    """Run a command in a folder with the files that the pages name; return status and output."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "demo.toml").write_text(DEMO, encoding="utf-8")
    (folder / "single.toml").write_text(SINGLE, encoding="utf-8")
    (folder / "gate.toml").write_text(SINGLE[SINGLE.index("[[case]]") :], encoding="utf-8")
    (block,) = [text for page in PAGES for text in toml_blocks_of(page) if "[[case]]" in text]
    small = block.replace("[64, 128]", "[16, 24]").replace("tokens = 128", "tokens = 24")
    # The first of its cases.
    small = small.replace('["contiguous", "spatial"]', '"spatial"')
    small = small.replace("timed_steps = 9", "timed_steps = 2\ncounts = false\nenergy_s = 1")
    (folder / "my-sweep.toml").write_text(small, encoding="utf-8")
    # A dimer of one protein: each of its chains is a homolog of the other.
    for name in ("my.cif", "homolog.cif"):
        shutil.copy(sources["1hf9"].structure.cached, folder / name)
    entity = gemmi.read_structure(str(folder / "my.cif")).entities[0]
    (folder / "my_A.a3m").write_text(
        f">query\n{gemmi.one_letter_code(entity.full_sequence)}\n", encoding="utf-8"
    )
    (folder / "my-structures").mkdir()
    for name in ("my.cif", "my_A.a3m"):
        shutil.copy(folder / name, folder / "my-structures")
    (folder / "recorded").mkdir()
    # Two records: their report has fewer figures.
    recorded = (ROOT / "results" / "recorded" / "demo-2-core-cpu.jsonl").read_text(encoding="utf-8")
    (folder / "recorded" / "before.jsonl").write_text(
        "".join(recorded.splitlines(keepends=True)[:2]), encoding="utf-8"
    )
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "foldperf").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m bench "$@"\n', encoding="utf-8"
    )
    (binaries / "foldperf").chmod(0o755)
    for name in ("docs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    variables = {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "FOLDPERF_STORE": str(store.root),
        "OMP_NUM_THREADS": "1",
    }
    site = folder / "site"

    def run(command):
        if simple := re.fullmatch(r"((?:\w+=\S+ )*)foldperf ([^$|&;<>*?()`]*)", command):
            own = dict(setting.split("=", 1) for setting in simple[1].split())
            words = shlex.split(simple[2])
            # Several ranks are forked too: `test_data_ranks` starts them through `torchrun`.
            several = re.match(r"(train|fold) .*--(data|context)-ranks 2\b", simple[2])
            ranks = 2 if several else 1
            options = {"folder": folder, "paths": [site], **variables, **own}
            if ranks == 1:
                every = [command_server.run(words, **options)]
            else:
                every = command_server.run_ranks(ranks, words, **options)
            text = "".join(done.stdout + done.stderr for done in every)
            return max(abs(done.returncode) for done in every), text
        ended = run_isolated(
            ["sh", "-c", command],
            timeout_s=HANG_S,
            memory_limit_bytes=8 * 2**30,
            environment=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"} | variables,
            folder=folder,
        )
        return ended.status, f"{ended.cause}\n{ended.output}"

    return run


ALL = list(
    dict.fromkeys(
        [command for page in PAGES for command in commands_of(page)]
        + [command for _, command in examples()]
    )
)


def elsewhere(command):
    return next((test for pattern, test in ELSEWHERE.items() if re.fullmatch(pattern, command)), "")


@pytest.mark.parametrize(
    "command", dict.fromkeys(shortened(command) for command in ALL if not elsewhere(command))
)
def test_documented_command_runs(reader, command):
    """Run in the order of the pages: a command may need files of an earlier one."""
    status, output = reader(command)
    assert status == 0, f"{command}\n{output}"


@pytest.mark.parametrize("command", [each for each in ALL if elsewhere(each)])
def test_command_left_to_another_test_has_valid_options(command):
    program, *words = shlex.split(command)
    if program == "foldperf":
        parser, _ = _parser()
        parser.parse_args(words)


def test_documented_sweeps_are_shipped():
    for command in ALL:
        if sweep := re.match(r"foldperf run ([\w-]+)(?=\s|$)", command):
            assert sweep[1] in shipped_sweeps(), command


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_commands_left_to_other_tests_are_run_there(test):
    path, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def test_demo_consists_of_documented_commands():
    """The demo itself takes minutes: each line of it is a command that a page shows."""
    recipe = re.search(
        r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    commands = {each.strip() for each in re.findall(r"\$\(BIN\)/(foldperf[^;&\\\n]*)", recipe[1])}
    assert len(commands) == 4
    assert commands <= set(ALL)


def test_clone_is_stamped(tmp_path):
    """Run outside of the reader's folder: the stamp lies beside its source."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    subprocess.run(
        [sys.executable, "-m", "bench", "stamp"],
        cwd=tmp_path / "clone",
        env=os.environ | {"PYTHONPATH": str(tmp_path / "clone")},
        check=True,
    )
    assert (tmp_path / "clone" / STAMP).exists()


def test_every_help_text_has_a_valid_example():
    for name, example in examples():
        assert example.startswith(f"foldperf {name}"), example
