"""The command line: help, one-line errors, doctor, list, third parties."""

import hashlib
import json
import shlex

import pytest
from support.mmcif import ATOM_ROWS, mmcif
from support.third_party import install

from bench.cli import COMMANDS, main
from bench.devices.cpu import CpuDevice
from bench.doctor import examine
from bench.progress import Progress
from bench.records.metrics import METRICS
from refsys.data.prepare.fetch import packages
from refsys.data.store.store import Store
from refsys.home import package_cache

WRONG = {
    "a preset that does not exist": (
        "describe alphafold3-trunk --preset huge",
        "preset='huge' does not exist; choose one of tiny, mini, small, base, full",
    ),
    "an axis that does not exist": (
        "describe alphafold3-trunk --tokns 3",
        "alphafold3-trunk has no axis 'tokns'",
    ),
    "an axis without a value": ("describe alphafold3-trunk --tokens", "--tokens has no value"),
    "a word that is no axis": ("describe alphafold3-trunk tokens", "expected --AXIS VALUE"),
    "a workload that does not exist": ("describe alphafold4", "'alphafold4' does not exist"),
    "a sweep that does not exist": ("run nothing", "sweep 'nothing' is neither a file nor one of"),
    "a status that does not exist": ("run demo --retry bad", "--retry bad: choose one of ok"),
    "inputs that are not prepared": ("run demo --store none", "not prepared"),
    "records that do not exist": ("report none.jsonl", "none.jsonl: No such file"),
    "no records": ("report .", "no records to report on"),
    "a structure that does not exist": ("prepare none.cif", "none.cif: No such file"),
    "an alignment without a chain": ("prepare x.cif --alignment y", "expected CHAIN=FILE"),
    "an alignment without a structure": ("prepare --alignment A=y", "needs the structure"),
    "an alignment given twice": (
        "prepare x.cif --alignment A=y --alignment A=z",
        "--alignment A=...: given more than once",
    ),
    "a template without its chain": (
        "prepare x.cif --template A=y.cif",
        "--template A=y.cif: expected CHAIN=FILE:CHAIN",
    ),
    "a template without a structure": ("prepare --template A=y:B", "needs the structure"),
    "an assembly without a structure": ("prepare --assembly 1", "--assembly needs the structure"),
    "realigning without a structure": ("prepare --realign", "--realign needs the structure"),
    "an entry to fold that is not prepared": ("fold 1abc --store none", "1abc is not prepared"),
    "a precision that does not exist": (
        "train --steps 1 --out t --entries x --precision fp8",
        "precision='fp8' does not exist",
    ),
    "a crop that does not exist": (
        "train --steps 1 --out t --entries x --crop round",
        "crop='round' does not exist",
    ),
    "an entry that is not prepared": (
        "train --steps 1 --out t --store none --entries 1abc",
        "1abc is not prepared",
    ),
    "nothing to train on": ("train --steps 1 --out t --store none", "no examples to train on"),
    "a gate case that does not exist": ("gate --only huge", "no case's title contains it"),
    "a baseline that does not exist": ("gate --baseline none.json", "none.json: no baseline"),
    "a device that is not there": ("doctor --device cuda", "torch sees no accelerator"),
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_one_line_and_status_2(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command, message = WRONG[name]
    assert main(shlex.split(command)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("foldperf: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "example:" in out
    assert f"foldperf {name}" in out


def test_help_is_printed_without_a_command(capsys):
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


class TestFetch:
    def test_fetch_lists_the_core_or_all_packages(self, sources, capsys):
        every = packages(package_cache())
        for options, wanted in (([], [p for p in every if p.core]), (["--all"], every)):
            assert main(["fetch", *options]) == 0
            lines = capsys.readouterr().out.splitlines()
            assert len(lines) == len(wanted)
            for line, package in zip(lines, wanted, strict=True):
                assert line.startswith(f"{package.name} {package.version} ({package.licence}): ")
                assert line.endswith(" in the cache")


DAMAGED = {
    "empty": ("", "not readable as mmCIF: the file is empty"),
    "binary": ("\x00\x01 data", "not readable as mmCIF"),
    "cut": (mmcif()[: mmcif().index("SE SE") + 5], "not readable as mmCIF"),
    "no chains": (mmcif(chains=""), "no _struct_asym category"),
}


class TestPrepare:
    @pytest.fixture
    def listing(self, tmp_path, monkeypatch):
        """A package of four damaged structures and, first and last, two that are sound."""
        texts = {"first": mmcif(header="data_first\n#\n", connections="")}
        texts |= {name: text for name, (text, _) in DAMAGED.items()}
        texts["last"] = mmcif(header="data_last\n#\n", connections="")
        folder = tmp_path / "packages" / "p-1"
        folder.mkdir(parents=True)
        rows = ['[[package]]\nname = "p"\nversion = "1"\nlicence = "MIT"\ncore = true\nsha256 = ""']
        for name, text in texts.items():
            (folder / f"{name}.cif").write_text(text, encoding="utf-8")
            digest = hashlib.sha256(text.encode()).hexdigest()
            rows += ["[[package.structure]]", f'entry = "{name}"', f'member = "{name}.cif"']
            rows += [f'sha256 = "{digest}"']
        path = tmp_path / "packages.toml"
        path.write_text("\n".join(rows), encoding="utf-8")
        monkeypatch.setenv("FOLDPERF_HOME", str(tmp_path))
        monkeypatch.setattr(
            "refsys.data.prepare.fetch.packages", lambda cache: packages(cache, path)
        )

    def test_prepare_names_unusable_structures_and_prepares_the_others(
        self, listing, tmp_path, capsys
    ):
        assert main(["prepare", "--workers", "0", "--store", str(tmp_path / "store")]) == 2
        out, err = capsys.readouterr()
        *lines, last = out.splitlines()
        said = [line.partition("] ")[2].split(":") for line in lines]
        assert last == "templates found for 0 chains: 2 entries changed"
        assert [name for name, _ in said] == ["first", *(f"{name}.cif" for name in DAMAGED), "last"]
        assert [name for name, state in said if state == " not prepared"] == [
            f"{name}.cif" for name in DAMAGED
        ]
        assert Store(tmp_path / "store").entries() == ["first", "last"]
        lines = err.splitlines()
        for line, (name, (_, reason)) in zip(lines, DAMAGED.items(), strict=True):
            assert line.startswith("foldperf: ")
            assert f"{name}.cif: " in line
            assert reason in line

    def test_prepare_names_packages_that_are_not_fetched(self, listing, tmp_path, capsys):
        (tmp_path / "packages" / "p-1" / "last.cif").unlink()
        assert main(["prepare", "--store", str(tmp_path / "store")]) == 2
        assert capsys.readouterr().err == "foldperf: p not in the cache; run 'foldperf fetch'\n"

    def test_prepare_prints_built_and_unchanged_records(self, tmp_path, capsys):
        path, store = tmp_path / "x.cif", str(tmp_path / "store")
        oxygen = "ATOM 6 O OXT . GLY A 1 2 2 6.0 0.0 0.0 1.0 ? 1"
        said = []
        for text in (mmcif(), mmcif(), mmcif(atoms=(*ATOM_ROWS[:6], oxygen, *ATOM_ROWS[6:]))):
            path.write_text(text, encoding="utf-8")
            assert main(["prepare", str(path), "--store", store]) == 0
            said.append(capsys.readouterr().out)
        assert said == [
            "test: 5 tokens, 2 records built\n",
            "test: 5 tokens, unchanged\n",
            "test: 5 tokens, 1 records built; left out: 1 modelled atoms that their residues "
            "do not have; it was made from another file, x.cif, before\n",
        ]

    def test_alignments_templates_and_assemblies_are_taken_from_the_command_line(
        self, sources, tmp_path, capsys
    ):
        """Prepare 3en2 twice: with its own MSA, and with itself as template of its own assembly."""
        source, store = sources["3en2"], Store(tmp_path)
        path, alignment = source.structure.cached, source.alignments["A"].cached
        options = ("--alignment", f"A={alignment}", "--template", f"A={path}:A", "--assembly", "1")
        assert main(["prepare", str(path), *options, "--store", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith("3en2-assembly1: 206 tokens, ")
        example = store.open("3en2-assembly1")
        assert len(example.templates) == len(example.alignments) == 2
        assert {len(record["codes"]) for record in example.alignments.values()} == {38_955}


class TestDoctor:
    def test_every_metric_has_a_status_and_missing_ones_a_reason(self):
        findings = examine(CpuDevice())
        assert [finding.metric for finding in findings] == list(METRICS)
        for finding in findings:
            assert (finding.status == "available") == (not finding.reason), finding
        missing = {finding.metric for finding in findings if finding.status == "missing"}
        assert {"energy_per_step_j", "kernel_launches", "peak_allocated_bytes"} <= missing
        assert "step_time_s" not in missing
        assert all(f.unlock for f in findings if f.metric == "energy_per_step_j")

    def test_existing_counter_is_available(self, tmp_path):
        (tmp_path / "intel-rapl:0").mkdir()
        (tmp_path / "intel-rapl:0" / "name").write_text("package-0", encoding="utf-8")
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1000000", encoding="utf-8")
        found = {finding.metric: finding for finding in examine(CpuDevice(tmp_path))}
        assert found["energy_per_step_j"].status == "available"

    def test_c_library_that_keeps_memory_is_a_degradation(self, monkeypatch):
        monkeypatch.setattr("bench.probes.host_memory.return_freed_memory", lambda _: False)
        found = {finding.metric: finding for finding in examine(CpuDevice())}
        assert found["peak_resident_bytes"].status == "degraded"
        assert "glibc" in found["peak_resident_bytes"].unlock

    def test_doctor_prints_json_and_text(self, capsys):
        assert main(["doctor", "--device", "cpu", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found["metrics"]) == len(METRICS)
        assert main(["doctor", "--device", "cpu"]) == 0
        out = capsys.readouterr().out
        assert "missing   energy_per_step_j" in out or "available energy_per_step_j" in out


class TestThirdParty:
    def test_third_party_workload_is_listed_and_described(self, foldperf, tmp_path):
        paths = [install(tmp_path)]
        listed = json.loads(foldperf("list", "--json", paths=paths, check=0).stdout)
        assert "toy" in listed["workloads"]
        assert "NoSuchThing" in listed["broken"]["broken"]
        described = foldperf("describe", "toy", "--tokens", 3, "--json", paths=paths, check=0)
        assert json.loads(described.stdout)["parameters"] == 12
        broken = foldperf("describe", "broken", paths=paths, check=2)
        assert "workload 'broken' cannot be loaded" in broken.stderr
        (tmp_path / "gate.toml").write_text(
            '[[case]]\nworkload = "toy"\naxes = { tokens = 4 }\n', encoding="utf-8"
        )
        gate = ("gate", "--cases", "gate.toml", "--baseline", "b.json", "--jobs", "1")
        foldperf(*gate, "--bless", "--reason", "new", paths=paths, check=0)
        assert "PASS: 1 cases" in foldperf(*gate, paths=paths, check=0).stdout


class TestProgress:
    def test_plain_lines_count_and_estimate(self, capsys):
        with Progress(3, "work") as progress:
            for number in range(3):
                progress.start(f"piece {number}")
                progress.finish(f"piece {number} done")
        lines = capsys.readouterr().err.splitlines()
        assert lines[0].startswith("[1/3, ")
        assert lines[0].endswith("left] piece 0 done")
        assert lines[2] == "[3/3] piece 2 done"

    def test_progress_has_no_time_left_after_skipped_work(self, capsys):
        with Progress(2, "work") as progress:
            progress.skip("known")
        assert capsys.readouterr().err == "[1/2] known\n"

    def test_terminal_gets_a_bar(self, monkeypatch):
        import io

        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda: True)
        with Progress(1, "work", stream) as progress:
            progress.start("piece")
            progress.finish("piece done")
        assert "piece done" in stream.getvalue()
        assert "1/1" in stream.getvalue()
