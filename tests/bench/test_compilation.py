"""Kernels compiled for architectures that are not here: what is found, and what may not be."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from support import HANG_S, mutants

from bench.cli import main
from bench.compilation.compiler import Compiled
from bench.compilation.limits import violations
from bench.compilation.resources import Resources, count_slow_products
from bench.compilation.specimens import specimens
from refsys import ops
from refsys.ops.triton_backend import ARCHITECTURES

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments, home=None, **options):
    """A process of its own: in this one, kernels are interpreted."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    if home:
        environment["FOLDPERF_HOME"] = str(home)
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=HANG_S,
        **options,
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The first run of the command, nothing known, and where its results are kept."""
    home = tmp_path_factory.mktemp("home")
    return python("-m", "bench", "compile", "--json", home=home), home


def test_every_kernel_keeps_the_rules_on_every_architecture(compiled):
    run, _ = compiled
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    found = json.loads(run.stdout)
    names = {(each["specimen"]["kernel"], each["specimen"]["architecture"]) for each in found}
    kernels = {kernel for kernel, _ in names}
    table = tomllib.loads((Path(ops.__path__[0]) / "launches.toml").read_text(encoding="utf-8"))
    assert kernels == {f"{name}.{kernel}" for name, each in table.items() for kernel in each}
    assert names == {(kernel, target) for kernel in kernels for target in ARCHITECTURES}
    for each in found:
        assert each["violations"] == []
        assert not each["cached"]
        assert 0 < each["resources"]["registers"] <= 512
        assert 0 < each["resources"]["occupancy"] <= 1


def test_only_damaged_results_are_made_again_and_are_equal(compiled, foldperf):
    run, home = compiled
    files = sorted((home / "compiled").iterdir())
    files[0].write_text("{", encoding="utf-8")
    files[1].write_text(
        json.dumps({"resources": {"registers": "many"}, "error": None}), encoding="utf-8"
    )
    files[2].unlink()
    again = foldperf("compile", "--json", check=0, FOLDPERF_HOME=str(home))
    first, second = json.loads(run.stdout), json.loads(again.stdout)
    assert sum(not each["cached"] for each in second) == 3 < len(second)
    resources = [
        {json.dumps(each["specimen"], sort_keys=True): each["resources"] for each in found}
        for found in (first, second)
    ]
    assert len(resources[0]) == len(first)
    assert resources[0] == resources[1]
    assert json.loads(files[0].read_bytes())["resources"]


def test_mutants_are_caught():
    found = json.loads(python(mutants.__file__).stdout)
    expected = {
        "spill": "spills",
        "overflow": "bytes of shared memory; gfx90a has 65536",
        "atomic": "atomic instructions: 1 atom.global",
        "atomic on AMD": "atomic instructions: 1",
        "slow": "1 products of half precision without matrix instructions",
        "broken": "does not compile: CompilationError",
    }
    assert found.keys() == expected.keys()
    for name, lines in found.items():
        assert any(expected[name] in line for line in lines), (name, lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--architecture", "sm_42"], "'sm_42' is not known"),
        (["--only", "softmax"], "no kernel's name contains it"),
    ],
)
def test_a_wrong_request_is_one_line(foldperf, arguments, message):
    run = foldperf("compile", *arguments, check=2)
    (line,) = run.stderr.splitlines()
    assert message in line


def test_interpreted_kernels_cannot_be_compiled(foldperf):
    run = foldperf("compile", check=2, TRITON_INTERPRET="1")
    assert "kernels are interpreted, not compiled" in run.stderr


def test_a_specimen_says_what_the_launcher_would_see():
    found = {s.kernel: s for s in specimens(["sm_90"])}["triangle_attention.forward"]
    pointer, strides = found.types[:2]
    assert pointer == "*bf16"
    assert strides == ("i32", "i32", "i32", "i32", None)
    assert (0,) in found.divisible
    assert (1, 4) not in found.divisible
    assert found.constants["WIDTH"] == 32
    assert found.options == {"num_warps": 4, "num_stages": 2}


def test_every_shape_and_dtype_has_specimens_of_its_own():
    few, many = specimens(["gfx942"]), specimens(["gfx942"], every=True)
    assert {s.kernel for s in few} == {s.kernel for s in many}
    assert {s.dtype for s in many} == {"bf16", "fp16", "fp32"}
    assert len(many) > 5 * len(few)
    evenness = {s.constants.get("EVEN") for s in many if s.kernel == "triangle_attention.forward"}
    assert evenness == {True, False}


def test_single_precision_may_do_without_matrix_instructions():
    (specimen, *_) = specimens(["sm_90"])
    plain = Resources(32, 0, 0, {}, {}, 2, 100, None, 1.0)
    half = Compiled(specimen, plain, None, 0.0, cached=True)
    assert len(list(violations(half))) == 1
    single = replace(half, specimen=replace(specimen, dtype="fp32"))
    assert not list(violations(single))


def test_code_without_any_matrix_instruction_has_slow_products_alone():
    """A compiler that gives up may leave a kernel that does nothing, at no cost."""
    factors = "tensor<64x32xbf16, #shared> * tensor<32x64xbf16, #shared>"
    line = f"%1 = ttng.warp_group_dot %a, %b, %c : {factors} -> tensor<64x64xf32, #mma>"
    text = f"#mma = #ttg.nvidia_mma<{{}}>\n{line}\n{line}\n"
    assert count_slow_products(text, matrix_instructions=8) == 0
    assert count_slow_products(text, matrix_instructions=0) == 2
    plain = (
        "%1 = tt.dot %a, %b, %c : tensor<8x8xf16, #a> * tensor<8x8xf16, #b> -> tensor<8x8xf32, #r>"
    )
    assert count_slow_products(f"#r = #ttg.blocked<{{}}>\n{plain}\n", matrix_instructions=8) == 1


def test_json_is_json_where_a_rule_is_broken(monkeypatch, capsys):
    (specimen, *_) = specimens(["sm_90"])
    spilling = Resources(255, 72, 0, {"HMMA": 4}, {}, 0, 100, None, 0.1)

    def compile_all(wanted, jobs, done):
        return [Compiled(each, spilling, None, 1.0, cached=False) for each in wanted]

    monkeypatch.setattr("bench.compilation.compiler.compile_all", compile_all)
    arguments = ["compile", "--only", specimen.kernel, "--architecture", "sm_90"]
    assert main([*arguments, "--json"]) == 1
    found, *_ = json.loads(capsys.readouterr().out)
    assert found["violations"] == ["spills 72 bytes of each thread's registers"]
    assert main(arguments) == 1
    assert f"FAIL {specimen.kernel} sm_90 bf16: spills 72" in capsys.readouterr().out


def test_a_record_and_a_figure_of_what_was_compiled(compiled, foldperf, tmp_path):
    _, home = compiled
    words = ("compile", "--only", "transition", "--out", tmp_path)
    foldperf(*words, check=0, FOLDPERF_HOME=str(home))
    record = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    assert record["schema"] == "foldperf.kernels/1"
    assert {"git", "software", "host", "source_sha256", "started_at"} <= record.keys()
    assert record["software"]["triton"]
    found = {(each["kernel"], each["width"], each["architecture"]) for each in record["kernels"]}
    # Three for narrow and for wide rows, and five of the conditioned one.
    assert len(found) == len(record["kernels"]) == (3 * 2 + 5) * len(ARCHITECTURES)
    assert all(each["resources"]["registers"] > 16 for each in record["kernels"])
    drawn = (tmp_path / "kernels.svg").read_text(encoding="utf-8")
    for text in ("transition.backward_rows (384)", "gfx90a", "broken rule is bold"):
        assert text in drawn


def test_a_figure_says_what_is_wrong(tmp_path):
    from analysis.errors import AnalysisError
    from analysis.kernels import draw_kernels

    kernel = {"kernel": "a.b", "architecture": "sm_90", "width": None, "violations": ["spills"]}
    resources = {"registers": 255, "shared_bytes": 2048, "spilled_bytes": 40, "occupancy": 0.1}
    broken = {"kernel": "c.d", "resources": None} | {"violations": ["does not compile"]}
    record = {
        "git": {"sha": None},
        "kernels": [kernel | {"resources": resources}, kernel | broken],
    }
    drawn = draw_kernels(record, tmp_path).read_text(encoding="utf-8")
    assert "255, 2 KiB, 40 B spilled" in drawn
    assert "does not compile" in drawn
    with pytest.raises(AnalysisError, match="no kernel to draw"):
        draw_kernels(record | {"kernels": []}, tmp_path)
