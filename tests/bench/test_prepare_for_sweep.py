"""``foldperf prepare --for``: the entries that a sweep's cases read, and no others."""

import pytest

from bench.cli import main
from bench.run.sweep import SWEEPS, read_sweep, shipped_sweeps
from refsys.data.store.store import Store
from workloads.catalogue import catalogue
from workloads.errors import UnsupportedError

SWEEP = """
[[case]]
workload = "alphafold3-trunk"
axes = { preset = "tiny", tokens = 16, entry = ENTRIES }
[[case]]
workload = "transformer"
axes = { preset = "bloom-tiny", tokens = 64 }
"""


@pytest.fixture
def prepare_for(tmp_path, sources, monkeypatch):
    """Run the command for a sweep that reads the entries; return its status and the store."""
    del sources

    def run(entries, *options):
        path = tmp_path / "mine.toml"
        path.write_text(SWEEP.replace("ENTRIES", repr(entries)), encoding="utf-8")
        folder = tmp_path / "store"
        words = ["prepare", "--for", str(path), "--store", str(folder), "--workers", "0"]
        return main([*words, *options]), Store(folder)

    return run


def test_entries_of_the_sweep_are_prepared_as_among_all(prepare_for, store):
    status, prepared = prepare_for(["1kd8", "synthetic"])
    assert (status, prepared.entries()) == (0, ["1kd8"])
    assert prepared.open("1kd8").records() == store.open("1kd8").records()


def test_prepared_entry_of_no_package_is_left_as_it_is(prepare_for, capsys):
    _, prepared = prepare_for(["1kd8"])
    (prepared.root / "examples" / "1kd8.json").rename(prepared.root / "examples" / "mine.json")
    assert prepare_for(["mine"])[0] == 0
    assert prepared.entries() == ["mine"]
    assert "nothing to prepare" in capsys.readouterr().out


def test_unknown_entry_is_named(prepare_for, capsys):
    status, prepared = prepare_for(["9zzz"])
    assert (status, prepared.entries()) == (2, [])
    assert "9zzz is in no package of the cache" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["x.cif"], ["--from", "folder"], ["--assembly", "1"]])
def test_structures_cannot_be_named_beside_a_sweep(prepare_for, words, capsys):
    assert prepare_for(["1kd8"], *words)[0] == 2
    assert "foldperf: --" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped_sweeps())
def test_case_needs_exactly_the_entries_that_it_names(name, tmp_path):
    """In an empty store a case finds its inputs if, and only if, it names no entry."""
    workloads = catalogue()
    for case in read_sweep(SWEEPS / f"{name}.toml", workloads).cases:
        workload = workloads[case.workload]
        if entries := workload.entries(case.config):
            with pytest.raises(UnsupportedError, match=f"({'|'.join(entries)}) is not prepared"):
                workload.inputs(case.config, tmp_path)
        else:
            assert workload.inputs(case.config, tmp_path) == {}
