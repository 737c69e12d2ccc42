"""Records in asv: figures, names, exported files, and asv itself on exports and runs."""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from asv.util import UserError
from hypothesis import given
from hypothesis import strategies as st
from support.records import GIT, a_record, parsed, valid_records
from support.repositories import git, make_repository
from support.third_party import install

from bench.asv import plugin
from bench.asv.benchmarks import TRACKED, cell, figures, group, tracked_by
from bench.asv.export import complete, make_strict
from bench.asv.export import export as export_records
from bench.asv.plan import DIRTY, make_plan
from bench.cli import main
from bench.errors import StorageError, UsageError
from bench.records.metrics import METRICS
from bench.records.provenance import host
from workloads.catalogue import catalogue
from workloads.errors import WorkloadError
from workloads.language_model import matching
from workloads.workload import Catalogue

ROOT = Path(__file__).resolve().parents[2]
NOBODY = Catalogue({})
STEP_TIME = "workload.toy.track_step_time_s"
ANY_NUMBER = st.one_of(st.none(), st.floats(), st.integers(-(10**24), 10**24))


def a_metric(name, value):
    kind = METRICS[name.split(".")[0]]
    known = {"method": "by hand", "n": 1, "ci": None, "samples": [], "flags": [], "ranks": []}
    quality, reason = ("missing", "why not") if value is None else ("measured", None)
    known |= {"unit": kind.unit, "better": kind.better, "scope": kind.scope}
    return known | {"value": value, "quality": quality, "reason": reason}


def measured(number, tokens=8, values=(), sha="a" * 40, **more):
    """A record of a case of the toy workload that ended well, on a scripted H200."""
    about, values = a_record(number), {"step_time_s": 1.5} | dict(values)
    workload = about["workload"] | {"config": {"tokens": tokens, "behaviour": "good"}}
    facts = dict.fromkeys(("parameters", "forward_flops", "step_flops", "minimum_bytes"), 1)
    facts |= {"components": {}, "forward_flops_by_component": {}, "notes": [], "arithmetic": "int8"}
    facts |= {"exponentials": 0, "instructions": 0}
    gpu = {"vendor": "nvidia", "name": "NVIDIA H200", "kind": "cuda", "driver": "580.1"}
    found = {
        "workload": workload | {"ranks": more.pop("ranks", 1)},
        "git": GIT | {"sha": sha, "commit_time": "2026-01-01T00:00:00+00:00"},
        "devices": [about["devices"][0] | gpu],
        "software": about["software"] | {"python": "3.12.1", "torch": "2.13.0+cu130"},
        "facts": facts,
        "metrics": {name: a_metric(name, value) for name, value in values.items()},
    }
    return a_record(number, "ok", **(found | more))


def export(records, out, catalogue):
    """Export records that are given as JSON."""
    return export_records([parsed(record) for record in records], out, catalogue)


def strict(path):
    def refuse(name):
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def result_files(out):
    return sorted(path for path in out.glob("*/*.json") if path.name != "machine.json")


def exported(out, name=STEP_TIME):
    """The values in the one result file, by tokens."""
    (path,) = result_files(out)
    result, (_, tokens, _), _ = strict(path)["results"][name]
    return dict(zip(tokens, result, strict=True))


class TestFigures:
    def test_every_metric_with_a_direction_is_tracked_and_no_other(self):
        wholes = {tracked.metric for tracked in TRACKED.values() if not tracked.whole}
        assert wholes == {n for n, k in METRICS.items() if k.better != "neither"} - {"phase_time_s"}

    @pytest.mark.parametrize("name", TRACKED)
    def test_less_is_better(self, name):
        tracked = TRACKED[name]
        values = [
            tracked.figure(parsed(measured(1, values={tracked.metric: value})))
            for value in (0.25, 0.5)
        ]
        better = METRICS[tracked.metric.split(".")[0]].better
        assert (values[0] < values[1]) == (better == "lower")
        assert (name == tracked.metric.replace(".", "_")) == (better == "lower")

    @given(value=ANY_NUMBER, name=st.sampled_from(sorted(TRACKED)))
    def test_figure_is_finite_and_not_negative(self, value, name):
        record = parsed(measured(1))
        metric = replace(record.metrics["step_time_s"], value=value)
        figure = TRACKED[name].figure(replace(record, metrics={TRACKED[name].metric: metric}))
        assert figure is None or 0 <= figure < math.inf

    def test_state_absent_at_the_peak_is_zero(self):
        tracked = TRACKED["peak_tracked_bytes_recomputed"]
        assert tracked.figure(parsed(measured(1, values={"peak_tracked_bytes": 5}))) == 0
        assert tracked.figure(parsed(measured(1))) is None

    def test_replicates_become_their_median_and_failures_are_omitted(self):
        records = [measured(n, values={"step_time_s": n}) for n in (1, 2, 30)]
        found = figures(map(parsed, [*records, a_record(4), a_record(5, "timeout")]), NOBODY)
        assert found == {STEP_TIME: {("behaviour=good", 8, 1): 2}}


class TestCases:
    @pytest.mark.parametrize("name", catalogue().workloads)
    def test_cases_that_differ_have_different_cells(self, name, monkeypatch):
        # How much text equals a protein is a search of its own, with tests of its own.
        monkeypatch.setattr(matching, "step_flops", lambda *_arguments: 10**12)
        monkeypatch.setattr(matching, "cached", lambda *_arguments: 1024)
        monkeypatch.setattr(matching, "peak_bytes", lambda *_arguments: 2**30)
        workload = catalogue()[name]
        usual = workload.values(workload.configure({}))
        configs = [usual]
        for axis in workload.axes:
            value = usual[axis.name]
            number = type(value) in {int, float}
            others = [value * 2, value + 32] if number else [True, False, "8vkf", *axis.choices]
            for other in others:
                try:
                    configs.append(workload.values(workload.configure({axis.name: other})))
                except WorkloadError:
                    continue  # another type of axis, or out of its range
        assert len(configs) > len(workload.axes)
        cells = {
            json.dumps(config, sort_keys=True): cell(workload, config, {}, 1) for config in configs
        }
        assert len(set(cells.values())) == len(cells)

    def test_cell_is_the_same_for_axes_that_follow_from_the_size(self):
        workload = catalogue()["alphafold3"]
        small, large = (
            workload.values(workload.configure({"tokens": tokens})) for tokens in (32, 96)
        )
        assert small["atoms"] != large["atoms"]
        assert cell(workload, small, {}, 1)[0] == cell(workload, large, {}, 1)[0]

    def test_axis_that_came_later_is_at_its_default(self):
        workload = catalogue()["alphafold3-trunk"]
        config = workload.values(workload.configure({"tokens": 32}))
        older = {name: value for name, value in config.items() if name != "dropout"}
        assert cell(workload, older, {}, 1) == cell(workload, config, {}, 1)

    def test_every_axis_is_named_without_the_workload(self):
        assert cell(None, {"tokens": 8, "a": 1, "b": "x"}, {}, 2) == ("a=1 b=x", 8, 2)
        assert cell(None, {}, {"tokens": 1.5}, 1) == ("default", 1.5, 1)

    def test_benchmark_names_are_split_correctly_by_asv(self):
        assert group("alphafold3-trunk.2 x") == "alphafold3_trunk_2_x"
        assert tracked_by(STEP_TIME) == TRACKED["step_time_s"]
        for other in ("toy.track_step_time_s", "workload.toy.step_time_s", "workload.toy.track_x"):
            assert tracked_by(other) is None


class TestExport:
    def test_exported_file_has_the_form_of_asv(self, tmp_path):
        done = export([measured(1), measured(2, tokens=16, ranks=2)], tmp_path, NOBODY)
        assert (done.figures, len(done.files), done.failed, done.untraceable) == (2, 1, 0, 0)
        found = strict(done.files[0])
        assert done.files[0].name == f"aaaaaaaa-{found['env_name']}.json"
        assert found["params"] | {"machine": ""} == {
            **{"machine": "", "os": "Linux", "arch": "", "cpu": "a cpu", "num_cpu": "2"},
            **{"ram": str(2**34), "python": "3.12", "torch": "2.13.0+cu130"},
            **{"gpu": "NVIDIA H200", "vendor": "nvidia", "driver": "580.1"},
        }
        assert found["date"] == 1767225600000
        assert found["results"][STEP_TIME] == [
            [1.5, None, None, 1.5],
            [["'behaviour=good'"], ["8", "16"], ["1", "2"]],
            "1",
        ]
        listed = strict(tmp_path / "benchmarks.json")
        assert listed["version"] == found["version"] == 2
        assert listed[STEP_TIME]["params"] == found["results"][STEP_TIME][1]
        assert listed[STEP_TIME]["unit"] == "seconds"
        assert (
            strict(done.files[0].with_name("machine.json"))["machine"] == done.files[0].parent.name
        )

    @given(value=ANY_NUMBER, other=ANY_NUMBER)
    def test_values_that_are_no_figures_are_not_written(self, tmp_path_factory, value, other):
        out = tmp_path_factory.mktemp("asv")
        names = [name for name, kind in METRICS.items() if kind.better != "neither"]
        record = parsed(measured(1))
        metric = record.metrics["step_time_s"]
        metrics = {name: replace(metric, value=value) for name in names}
        metrics["step_time_s"] = replace(metric, value=other)
        export_records([replace(record, metrics=metrics)], out, NOBODY)
        for path in out.rglob("*.json"):
            strict(path)
        for path in result_files(out):
            for result, _, _ in strict(path)["results"].values():
                assert all(v is None or 0 <= v < math.inf for v in result)

    def test_export_counts_and_omits_untraceable_records(self, tmp_path):
        dirty = [GIT | {"dirty": True}, dict.fromkeys(GIT), GIT | {"sha": None}]
        records = [measured(n, git=git) for n, git in enumerate(dirty)]
        done = export([*records, a_record(9, "crash")], tmp_path, NOBODY)
        assert (done.files, done.figures, done.failed, done.untraceable) == ((), 0, 1, 3)

    def test_export_writes_one_file_per_accelerator_driver_torch_and_commit(self, tmp_path):
        one = measured(1)
        device, software = one["devices"][0], one["software"]
        others = [
            measured(2, devices=[device | {"name": "NVIDIA H100"}]),
            measured(3, devices=[device | {"driver": "590.0"}]),
            measured(4, software=software | {"torch": "2.14.0"}),
            measured(5, sha="b" * 40),
            measured(6, devices=[device | {"kind": "cpu", "vendor": "none", "name": "a cpu"}]),
        ]
        assert len(export([one, *others], tmp_path, NOBODY).files) == 6
        assert len(result_files(tmp_path)) == 6
        chosen = {strict(path)["params"]["gpu"] for path in result_files(tmp_path)}
        assert chosen == {"NVIDIA H200", "NVIDIA H100", "none"}

    def test_export_adds_to_an_earlier_one(self, tmp_path):
        export([measured(1), measured(2, tokens=16)], tmp_path, NOBODY)
        export(
            [measured(3, tokens=128), measured(4, values=[("step_time_s", 2)])], tmp_path, NOBODY
        )
        assert exported(tmp_path) == {"8": 2, "16": 1.5, "128": 1.5}
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
        export([measured(3, tokens=128)], tmp_path, NOBODY)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before

    def test_export_keeps_results_of_asv_run(self, tmp_path):
        folder = tmp_path / "there"
        folder.mkdir()
        theirs = {"version": 2, "result_columns": ["result", "params", "version"]}
        row = [[3.0], [["'behaviour=good'"], ["4"], ["1"]], "1"]
        theirs["results"] = {STEP_TIME: row, "other.track_x": [[1.0], [], "7"]}
        (folder / "machine.json").write_text('{"machine": "there", "version": 1}', encoding="utf-8")
        (folder / "aaaaaaaa-existing.json").write_text(json.dumps(theirs), encoding="utf-8")
        other = {"name": "other.track_x", "params": [], "version": "7"}
        (tmp_path / "benchmarks.json").write_text(
            json.dumps({"version": 2, "other": other}), encoding="utf-8"
        )
        kept = {path: path.read_bytes() for path in folder.iterdir()}
        export([measured(1)], tmp_path, NOBODY)
        assert {path: path.read_bytes() for path in folder.iterdir()} == kept
        listed = strict(tmp_path / "benchmarks.json")
        assert listed["other"] == other
        assert listed[STEP_TIME]["params"][1] == ["4", "8"]

    def test_list_of_benchmarks_can_be_rebuilt(self, tmp_path):
        export([measured(1), measured(2, tokens=16)], tmp_path, NOBODY)
        path = tmp_path / "benchmarks.json"
        whole = path.read_bytes()
        path.unlink()
        complete(tmp_path)
        assert path.read_bytes() == whole

    def test_new_version_of_a_figure_cuts_the_history(self, tmp_path, monkeypatch):
        export([measured(1)], tmp_path, NOBODY)
        monkeypatch.setattr("bench.asv.export.VERSION", "2")
        export([measured(2, tokens=16)], tmp_path, NOBODY)
        assert exported(tmp_path) == {"16": 1.5}
        assert strict(tmp_path / "benchmarks.json")[STEP_TIME]["params"][1] == ["16"]

    def test_machine_where_asv_ran_is_recognized(self, tmp_path):
        known = {"machine": "atlas", "cpu": "a cpu", "arch": "x86_64", "os": "Linux", "version": 1}
        (tmp_path / "atlas").mkdir()
        (tmp_path / "atlas" / "machine.json").write_text(json.dumps(known), encoding="utf-8")
        hashed = hashlib.sha256(b"atlas").hexdigest()[:16]
        same = measured(1)["host"] | {"hostname_hash": hashed}
        namesake = same | {"cpu": "another cpu"}
        export([measured(1, host=same), measured(2, host=namesake)], tmp_path, NOBODY)
        machines = {strict(p)["params"]["machine"] for p in result_files(tmp_path)}
        assert "atlas" in machines
        assert len(machines) == 2

    def test_recorded_host_name_is_a_hash(self):
        name = os.uname().nodename
        assert host().hostname_hash == hashlib.sha256(name.encode()).hexdigest()[:16]

    def test_nan_of_asv_becomes_null(self, tmp_path):
        (tmp_path / "m").mkdir()
        path = tmp_path / "m" / "a.json"
        path.write_text('{"results": {"x": [[NaN, 1.0], [["1", "2"]]]}}', encoding="utf-8")
        make_strict(tmp_path)
        assert strict(path) == {"results": {"x": [[None, 1.0], [["1", "2"]]]}}

    @pytest.mark.parametrize("content", ["{", "[]", "\x00"])
    def test_damaged_file_is_named(self, tmp_path, content):
        (tmp_path / "benchmarks.json").write_text(content, encoding="utf-8")
        with pytest.raises(StorageError, match=r"benchmarks\.json: not .*; remove it"):
            export([measured(1)], tmp_path, NOBODY)


class TestCommand:
    def write(self, folder, *records):
        path = folder / "r.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
        return str(path)

    def test_export_prints_figures_and_omitted_records(self, tmp_path, capsys):
        bad = measured(2, git=GIT | {"dirty": True})
        good = measured(1, values={"operator_calls": 7})
        path = self.write(tmp_path, good, bad, a_record(3))
        assert main(["export", "asv", path, "--out", str(tmp_path / "asv")]) == 0
        assert capsys.readouterr().out == (
            f"2 figures in 1 file below {tmp_path / 'asv'}; records left out: 1 of uncommitted "
            "source, 1 of cases that did not end well\n"
        )

    def test_export_without_records_is_bad_input(self, tmp_path, capsys):
        path = self.write(tmp_path, measured(1, git=GIT | {"dirty": True}))
        assert main(["export", "asv", path, "--out", str(tmp_path / "asv")]) == 2
        assert capsys.readouterr().err == (
            f"foldperf: {path}: no records to export; records left out: 1 of uncommitted source\n"
        )


def test_uncommitted_source_is_refused(tmp_path, monkeypatch):
    """asv files its figures under the commit that it is given."""
    monkeypatch.setenv("FOLDPERF_ASV_SWEEP", "sweep.toml")
    axes = '[[case]]\nworkload = "alphafold3-trunk"\naxes = { tokens = 16, entry = "synthetic" }\n'
    (tmp_path / "sweep.toml").write_text(axes, encoding="utf-8")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert len(make_plan(catalogue(), tmp_path).sweep.cases) == 1
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "new.py").touch()
    with pytest.raises(UsageError, match=r"bench/.* differs from the commit"):
        make_plan(catalogue(), tmp_path)
    monkeypatch.setenv(DIRTY, "1")
    make_plan(catalogue(), tmp_path)


def test_export_refuses_a_file_of_another_commit_with_the_same_first_digits(tmp_path):
    export([measured(1, sha="a" * 40)], tmp_path, NOBODY)
    (error,) = export([measured(2, sha="a" * 8 + "b" * 32)], tmp_path, NOBODY).errors
    assert f"of commit {'a' * 40}, not {'a' * 8}b" in str(error)


class TestCommitOfAsv:
    """The commit under which ``asv run`` files figures, in the process of asv."""

    @pytest.fixture
    def tree(self, tmp_path, monkeypatch):
        first = make_repository(tmp_path)
        (tmp_path / "refsys/a.py").write_text("x = 2\n", encoding="utf-8")
        git(tmp_path, "commit", "-qam", "two")
        monkeypatch.setattr(plugin, "ROOT", tmp_path)
        return first

    @pytest.fixture
    def asv_run(self, monkeypatch):
        """asv's own module with the plugin's checks, around a run that does nothing."""
        import asv.commands.run as module

        def run(cls, **options):
            return "ran"

        monkeypatch.setattr(module.Run, "run", classmethod(run))
        monkeypatch.setattr(module, "run_benchmarks", lambda *arguments, results: results)
        plugin._check_commits()
        return module

    def test_commit_of_other_source_is_refused(self, tree, asv_run):
        with pytest.raises(UserError, match=r"refsys/a\.py differs from the commit"):
            asv_run.Run.run(set_commit_hash=tree)
        with pytest.raises(UserError, match="nothing is filed under none: none is not a commit"):
            asv_run.Run.run(set_commit_hash="none")
        for name in ("HEAD", "main", None):
            assert asv_run.Run.run(set_commit_hash=name) == "ran"

    def test_commit_that_asv_built_is_refused_before_it_is_measured(self, tree, asv_run):
        with pytest.raises(UserError, match="differs from the commit"):
            asv_run.run_benchmarks(results=SimpleNamespace(commit_hash=tree))
        unsaved = SimpleNamespace(commit_hash=None)
        assert asv_run.run_benchmarks(results=unsaved) is unsaved

    def test_suite_that_is_built_for_another_commit_is_refused(self, tree, tmp_path, monkeypatch):
        monkeypatch.delenv(DIRTY, raising=False)
        monkeypatch.setenv("FOLDPERF_ASV_SWEEP", "quick")
        monkeypatch.setenv("ASV_COMMIT", tree)
        with pytest.raises(UsageError, match=r"refsys/a\.py differs from the commit"):
            make_plan(catalogue(), tmp_path)

    def test_variables_of_another_repository_are_removed_for_asv(self, monkeypatch):
        variables = {"GIT_DIR": "/x", "GIT_CONFIG_COUNT": "0", "FOLDPERF": "1"}
        monkeypatch.setattr(os, "environ", variables)
        plugin.forget_other_repositories()
        assert set(variables) == {"GIT_CONFIG_COUNT", "FOLDPERF"}


COMMITS = 12
# On the H200, of the first half of the commits and of the second.
STEPS = {
    **{"step_time_s": (2.0, 2.0), "kernel_launches": (1000, 1005), "memory_copies": (1005, 1000)},
    **{"model_flop_utilization": (0.5, 0.4), "hardware_flop_utilization": (0.4, 0.5)},
    **{"achieved_flops": (5e12, 4e12), "first_step_time_s": (2.0, 2.01)},
}
WORSE = {"kernel_launches", "one_minus_model_flop_utilization", "inverse_achieved_flops"}


class Clone:
    """The project in a repository of its own, with a third party's workload."""

    def __init__(self, folder):
        self.root = folder / "clone"
        (folder / "toys").mkdir()
        toys = install(folder / "toys")
        for name in ("bench", "refsys", "workloads", "analysis"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, self.root / name, ignore=ignored)
        for name in ("asv.conf.json", ".gitignore"):
            shutil.copy(ROOT / name, self.root)
        (folder / "toy.toml").write_text(
            "[protocol]\nwarmup_steps = 0\ntimed_steps = 1\nenergy_s = 0.1\n"
            '[[case]]\nworkload = "toy"\naxes = { tokens = [4, 8] }\n',
            encoding="utf-8",
        )
        paths = {"ASV_PYTHONPATH": str(toys), "PYTHONPATH": str(toys), "HOME": str(folder)}
        binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        sweep = {"FOLDPERF_ASV_SWEEP": str(folder / "toy.toml")}
        author = {
            f"GIT_{who}_{what}": "a@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        self.environment = os.environ | paths | sweep | author | {"PATH": binaries}
        self.said = ""
        for line in ("git init -q", "git add -A"):
            self(line)
        self.commit("everything")

    def __call__(self, line):
        done = subprocess.run(
            line,
            shell=True,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        self.said += done.stdout + done.stderr
        return done.stdout

    def commit(self, *messages):
        self("; ".join(f"git commit -q --allow-empty -m {message}" for message in messages))

    def log(self):
        return self("git rev-list --reverse HEAD").split()

    def index(self):
        return strict(self.root / "results/html/index.json")

    def graphs(self, name):
        """The newest points of a benchmark's graphs by accelerator."""
        found = {}
        for path in (self.root / "results/html/graphs").rglob(f"{name}.json"):
            if gpu := re.search(r"/gpu-([^/]+)", str(path)):
                points = strict(path)
                found[gpu[1]] = points[-1][1] if points else []
        return found

    def regressions(self):
        """The benchmarks that asv finds to have become worse."""
        found = strict(self.root / "results/html/regressions.json")["regressions"]
        return {name.partition("(")[0].rpartition("track_")[2] for name, *_ in found}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A clone with records of an H200 at every commit, and what the guide's commands did there."""
    clone = Clone(tmp_path_factory.mktemp("asv"))
    guide = (ROOT / "docs" / "asv.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) if "asv run" in b]
    commands = [line.split("  #")[0].strip() for line in block.splitlines()]
    assert [line.split()[:2] for line in commands] == [
        ["asv", "machine"],
        ["asv", "run"],
        ["asv", "publish"],
    ]
    clone.commit(*range(COMMITS - 1))
    records = []
    for age, sha in enumerate(clone.log()):
        values = {name: steps[2 * age // COMMITS] for name, steps in STEPS.items()}
        records += [measured(100 * age + tokens, tokens, values, sha) for tokens in (4, 16)]
    path = clone.root.parent / "h200.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    # Before asv runs, whose own list of benchmarks would then lack what was exported.
    for line in (f"{sys.executable} -m bench export asv {path}", *commands):
        clone(line)
    return clone


class TestAsv:
    def test_every_case_runs_once(self, clone):
        records = valid_records(clone.root / "results/runs/toy/records.jsonl")
        assert [record["status"] for record in records] == ["ok", "ok"]

    def test_third_party_workload_has_every_metric(self, clone):
        listed = {name for name in clone.index()["benchmarks"] if name.startswith("workload.toy.")}
        assert {name.rpartition("track_")[2] for name in listed} == set(TRACKED)
        drawn = [name for name in listed if clone.graphs(name)["none"]]
        assert len(drawn) >= 15, "metrics that a CPU has"

    def test_exported_records_are_in_the_same_graphs(self, clone):
        index = clone.index()
        assert set(index["params"]["gpu"]) == {"none", "NVIDIA H200"}
        assert set(index["params"]["vendor"]) == {"none", "nvidia"}
        assert {"580.1"} < set(index["params"]["driver"])
        assert {"2.13.0+cu130"} < set(index["params"]["torch"])
        ours = "{}.{}".format(*sys.version_info)
        assert set(index["params"]["python"]) == {ours, "3.12"}, "versions, not places"
        assert len(index["params"]["machine"]) == len(index["machines"]) == 2
        assert index["benchmarks"][STEP_TIME]["param_names"] == ["case", "tokens", "ranks"]
        assert index["benchmarks"][STEP_TIME]["params"] == [["'default'"], ["4", "8", "16"], ["1"]]
        graphs = clone.graphs(STEP_TIME)
        assert graphs["NVIDIA H200"] == [2, None, 2]
        assert all(value > 0 for value in graphs["none"][:2])
        assert graphs["none"][2] is None
        launches = clone.graphs("workload.toy.track_kernel_launches")
        assert launches["NVIDIA H200"] == [1005, None, 1005]
        assert not launches["none"]

    def test_asv_reports_worse_figures_alone_as_regressions(self, clone):
        assert clone.regressions() == WORSE

    def test_every_file_of_asv_is_strict_json(self, clone):
        files = list((clone.root / "results/asv").rglob("*.json"))
        assert len(files) == 4 + COMMITS
        for path in files:
            strict(path)

    def test_asv_gives_no_warning_and_leaves_the_tree_clean(self, clone):
        for word in ("warning", "Skipping", "Couldn't", "failed", "Traceback"):
            assert word.lower() not in clone.said.lower()
        assert clone("git status --porcelain -- . ':(exclude)results'") == ""

    def test_asv_run_saves_nothing_under_a_commit_of_other_source(self, clone, tmp_path):
        elsewhere = make_repository(tmp_path)
        head = clone.log()[-1]
        before = {path: path.read_bytes() for path in (clone.root / "results/asv").rglob("*.json")}
        (clone.root / "refsys/new.py").touch()
        clone("git add refsys/new.py")
        clone.commit("source")
        refusals = {
            (head, ""): "refsys/new.py differs from the commit",
            (elsewhere, f"GIT_DIR={tmp_path}/.git"): f"{elsewhere} is not a commit of",
        }
        for (commit, variable), message in refusals.items():
            with pytest.raises(AssertionError, match=message):
                clone(f"{variable} asv run --python=same --set-commit-hash {commit}")
        clone(f"git reset -q --hard {head}")
        after = {path: path.read_bytes() for path in (clone.root / "results/asv").rglob("*.json")}
        assert after == before

    def test_thresholds_are_of_benchmarks_that_exist(self):
        import json5

        settings = json5.loads((ROOT / "asv.conf.json").read_text(encoding="utf-8"))
        for pattern in settings["regressions_thresholds"]:
            for choice in re.findall(r"[a-z_]{3,}", pattern.split("track_")[1]):
                assert any(name.startswith(choice) for name in TRACKED), choice
