"""Learning check: a short run over a few samples, its record and its figure."""

import json

import pytest

from analysis.learning import draw_learning


@pytest.fixture(scope="module")
def run(store, command_server, tmp_path_factory):
    """Thirty steps over five samples."""
    folder = tmp_path_factory.mktemp("learning")
    options = {
        **{"--steps": 30, "--draws": 5, "--tokens": 24, "--samples": 2, "--warmup-steps": 10},
        **{"--learning-rate": 3e-3, "--target": 0.7, "--store": store.root, "--out": folder},
    }
    words = ["learn", *(word for pair in options.items() for word in pair)]
    return command_server.run(words, folder=folder), folder


def test_loss_falls_within_thirty_steps(run):
    done, folder = run
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((folder / "learning.json").read_text(encoding="utf-8"))
    assert record["ratio"] <= 0.7
    assert [point["steps"] for point in record["curve"]] == [*range(5, 31, 5)]
    first, last = record["curve"][0]["losses"], record["curve"][-1]["losses"]
    assert record["ratio"] == last["diffusion"] / first["diffusion"]
    assert last["mse"] < first["mse"]


def test_record_has_its_provenance(run):
    record = json.loads((run[1] / "learning.json").read_text(encoding="utf-8"))
    assert record["schema"] == "foldperf.learning/1"
    assert set(record["git"]) == {"sha", "dirty", "diff_sha256", "commit_time", "reason"}
    assert record["config"]["repeat"] == 5
    assert record["host"]["cores"] >= 1
    assert record["software"]["torch"]


def test_samples_repeat_and_the_figure_is_plotted(run, tmp_path):
    _, folder = run
    log = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    cycles = [json.loads(line)["cycles"] for line in log]
    assert cycles[:5] * 6 == cycles
    assert (folder / "learning.svg").stat().st_size > 1000
    record = json.loads((folder / "learning.json").read_text(encoding="utf-8"))
    path = draw_learning(record, tmp_path)
    assert path.read_bytes() == (folder / "learning.svg").read_bytes(), "byte-stable"


def test_loss_that_does_not_fall_far_enough_is_a_regression(foldperf, store, tmp_path):
    options = ("--steps", 4, "--draws", 2, "--tokens", 16, "--samples", 1, "--target", 1e-6)
    done = foldperf("learn", *options, "--store", store.root, "--out", tmp_path / "x", check=1)
    assert "does not learn" in done.stdout
    done = foldperf("learn", "--steps", 4, "--draws", 3, "--out", tmp_path / "y", check=2)
    assert "fewer than two passes over 3 draws" in done.stderr
