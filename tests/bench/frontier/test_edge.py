"""Edge of real cases under a memory limit on the CPU: predicted, measured, and searched around."""

import json
import math

from support.forked_modules import FRESH

from bench.frontier.cells import Space
from bench.frontier.memory import find_memory
from bench.frontier.runs import CaseRuns, judged
from workloads.catalogue import catalogue

TILE, MOST = 32, 512
LIMIT_GIB = 0.75
AXES = {"preset": "tiny", "checkpointing": False}
# A forked process holds the libraries of all commands, which take part of the memory.
FRESH_PROCESSES = {FRESH: "1"}


def test_measured_edge_is_the_true_one_and_the_predicted_one(foldperf, tmp_path):
    words = ["frontier", "alphafold3-trunk", *(f"{name}={value}" for name, value in AXES.items())]
    words += ["--device", "cpu", "--memory", LIMIT_GIB, "--tile", TILE, "--most-tokens", MOST]
    words += ["--measure", "--json"]
    found = json.loads(foldperf(*words, check=0, **FRESH_PROCESSES).stdout)
    (cell,) = found["frontier"]
    runs = {run["tokens"]: run for run in cell["runs"]}
    assert len(runs) <= 2 * math.log2(MOST / TILE)
    edge = cell["longest_tokens"]
    assert abs(edge - cell["predicted_longest_tokens"]) <= TILE
    longest = runs[edge]
    assert abs(longest["predicted_bytes"] / longest["peak_bytes"] - 1) < 0.05
    assert runs[cell["first_failing_tokens"]]["status"] == "oom"

    # Two tiles on either side, those that the search did not run included.
    workload = catalogue()["alphafold3-trunk"]
    space = Space(workload, AXES, {"default": {}}, (1,), TILE, MOST // TILE)
    memory = find_memory("cpu", LIMIT_GIB, measured=True)
    cases = CaseRuns(workload, memory, 600.0, tmp_path / "results", tmp_path, catalogue())
    for tokens in (edge - TILE, edge + 2 * TILE):
        record = cases.record(space.config("default", 1, tokens), 1)
        assert record.environment["MALLOC_TRIM_THRESHOLD_"] == "65536"
        outcome = judged(tokens, record, memory).outcome
        assert outcome == ("fits" if tokens <= edge else "too long"), tokens

    again = json.loads(foldperf(*words, check=0, **FRESH_PROCESSES).stdout)["frontier"][0]
    assert again["runs"] == cell["runs"], "nothing was run again"
