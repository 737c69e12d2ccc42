"""Offline compilation of kernels: resources, limits, cache, record and figure."""

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
    """Run Python in another process, since kernels are interpreted in this one."""
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


EACH_VENDOR = ("sm_90", "gfx942")
# A second process would import the libraries as well.
COMPILE = ("compile", "--json", "--jobs", "1", *(f"--architecture={name}" for name in EACH_VENDOR))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Output of the first run of the command, without cached results, and its cache folder."""
    home = tmp_path_factory.mktemp("home")
    return python("-m", "bench", *COMPILE, home=home), home


def test_every_kernel_is_within_the_limits_on_an_architecture_of_each_vendor(compiled):
    """`make compile-gate` compiles for all of them, with both Tritons."""
    run, _ = compiled
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    results = json.loads(run.stdout)
    names = {
        (result["specimen"]["kernel"], result["specimen"]["architecture"]) for result in results
    }
    kernels = {kernel for kernel, _ in names}
    table = tomllib.loads((Path(ops.__path__[0]) / "launches.toml").read_text(encoding="utf-8"))
    assert kernels == {
        f"{name}.{kernel}" for name, operator in table.items() for kernel in operator
    }
    assert names == {(kernel, target) for kernel in kernels for target in EACH_VENDOR}
    for result in results:
        assert result["violations"] == []
        assert not result["cached"]
        assert 0 < result["resources"]["registers"] <= 512
        assert 0 < result["resources"]["occupancy"] <= 1


def test_only_damaged_results_are_compiled_again_and_are_equal(compiled, foldperf):
    run, home = compiled
    files = sorted((home / "compiled").iterdir())
    files[0].write_text("{", encoding="utf-8")
    files[1].write_text(
        json.dumps({"resources": {"registers": "many"}, "error": None}), encoding="utf-8"
    )
    files[2].unlink()
    again = foldperf(*COMPILE, check=0, FOLDPERF_HOME=str(home))
    first, second = json.loads(run.stdout), json.loads(again.stdout)
    assert sum(not result["cached"] for result in second) == 3 < len(second)
    resources = [
        {json.dumps(result["specimen"], sort_keys=True): result["resources"] for result in results}
        for results in (first, second)
    ]
    assert len(resources[0]) == len(first)
    assert resources[0] == resources[1]
    assert json.loads(files[0].read_bytes())["resources"]


def test_mutant_kernels_violate_the_limits():
    violations_of = json.loads(python(mutants.__file__).stdout)
    expected = {
        "spill": "spills",
        "overflow": "bytes of shared memory; gfx90a has 65536",
        "atomic": "atomic instructions: 1 atom.global",
        "atomic on AMD": "atomic instructions: 1",
        "slow": "1 products of half precision without matrix instructions",
        "broken": "does not compile: CompilationError",
    }
    assert violations_of.keys() == expected.keys()
    for name, lines in violations_of.items():
        assert any(expected[name] in line for line in lines), (name, lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--architecture", "sm_42"], "'sm_42' is not known"),
        (["--only", "softmax"], "no kernel's name contains it"),
    ],
)
def test_invalid_compile_request_is_one_error_line(foldperf, arguments, message):
    run = foldperf("compile", *arguments, check=2)
    (line,) = run.stderr.splitlines()
    assert message in line


def test_interpreted_kernels_cannot_be_compiled(foldperf):
    run = foldperf("compile", check=2, TRITON_INTERPRET="1")
    assert "kernels are interpreted, not compiled" in run.stderr


def test_specimen_has_the_types_and_constants_of_the_launcher():
    by_kernel = {s.kernel: s for s in specimens(["sm_90"])}["triangle_attention.forward"]
    pointer, strides = by_kernel.types[:2]
    assert pointer == "*bf16"
    assert strides == ("i32", "i32", "i32", "i32", None)
    assert (0,) in by_kernel.divisible
    assert (1, 4) not in by_kernel.divisible
    assert by_kernel.constants["WIDTH"] == 32
    assert by_kernel.options == {"num_warps": 4, "num_stages": 2}


def test_kernels_are_compiled_for_every_architecture_unless_some_are_named(monkeypatch):
    selected = []

    def compile_all(specimens, jobs, done):
        selected.extend(specimens)
        return []

    monkeypatch.setattr("bench.compilation.compiler.compile_all", compile_all)
    assert main(["compile", "--only", "fold"]) == 0
    assert {specimen.architecture for specimen in selected} == set(ARCHITECTURES)


def test_exhaustive_specimens_cover_every_shape_and_dtype():
    few, many = specimens(["gfx942"]), specimens(["gfx942"], exhaustive=True)
    assert {s.kernel for s in few} == {s.kernel for s in many}
    assert {s.dtype for s in many} == {"bf16", "fp16", "fp32"}
    assert len(many) > 5 * len(few)
    evenness = {s.constants.get("EVEN") for s in many if s.kernel == "triangle_attention.forward"}
    assert evenness == {True, False}


def test_float32_kernels_may_lack_matrix_instructions():
    (specimen, *_) = specimens(["sm_90"])
    plain = Resources(32, 0, 0, {}, {}, 2, 100, None, 1.0)
    half = Compiled(specimen, plain, None, 0.0, cached=True)
    assert len(list(violations(half))) == 1
    single = replace(half, specimen=replace(specimen, dtype="fp32"))
    assert not list(violations(single))


def test_products_are_slow_without_any_matrix_instruction():
    """A compiler may fail silently and leave an empty kernel, which must not pass as cheap."""
    factors = "tensor<64x32xbf16, #shared> * tensor<32x64xbf16, #shared>"
    line = f"%1 = ttng.warp_group_dot %a, %b, %c : {factors} -> tensor<64x64xf32, #mma>"
    text = f"#mma = #ttg.nvidia_mma<{{}}>\n{line}\n{line}\n"
    assert count_slow_products(text, matrix_instructions=8) == 0
    assert count_slow_products(text, matrix_instructions=0) == 2
    plain = (
        "%1 = tt.dot %a, %b, %c : tensor<8x8xf16, #a> * tensor<8x8xf16, #b> -> tensor<8x8xf32, #r>"
    )
    assert count_slow_products(f"#r = #ttg.blocked<{{}}>\n{plain}\n", matrix_instructions=8) == 1


def test_json_output_is_valid_when_a_limit_is_violated(monkeypatch, capsys):
    (specimen, *_) = specimens(["sm_90"])
    spilling = Resources(255, 72, 0, {"HMMA": 4}, {}, 0, 100, None, 0.1)

    def compile_all(specimens, jobs, done):
        return [Compiled(specimen, spilling, None, 1.0, cached=False) for specimen in specimens]

    monkeypatch.setattr("bench.compilation.compiler.compile_all", compile_all)
    arguments = ["compile", "--only", specimen.kernel, "--architecture", "sm_90"]
    assert main([*arguments, "--json"]) == 1
    kernel, *_ = json.loads(capsys.readouterr().out)
    assert kernel["violations"] == ["spills 72 bytes of each thread's registers"]
    assert main(arguments) == 1
    assert f"FAIL {specimen.kernel} sm_90 bf16: spills 72" in capsys.readouterr().out


def test_record_and_figure_have_every_compiled_kernel(compiled, foldperf, tmp_path):
    _, home = compiled
    # On the architectures whose results are there.
    words = (*COMPILE, "--only", "transition", "--out", tmp_path)
    foldperf(*words, check=0, FOLDPERF_HOME=str(home))
    record = json.loads((tmp_path / "kernels.json").read_text(encoding="utf-8"))
    assert record["schema"] == "foldperf.kernels/1"
    assert {"git", "software", "host", "source_sha256", "started_at"} <= record.keys()
    assert record["software"]["triton"]
    variants = {
        (kernel["kernel"], kernel["width"], kernel["architecture"]) for kernel in record["kernels"]
    }
    # Three kernels on narrow and on wide rows, and five of the conditioned operator.
    assert len(variants) == len(record["kernels"]) == (3 * 2 + 5) * len(EACH_VENDOR)
    assert all(kernel["resources"]["registers"] > 16 for kernel in record["kernels"])
    svg = (tmp_path / "kernels.svg").read_text(encoding="utf-8")
    for text in ("transition.backward_rows (384)", "gfx942", "violations are bold"):
        assert text in svg


def test_figure_marks_violations(tmp_path):
    from analysis.errors import AnalysisError
    from analysis.kernels import draw_kernels

    kernel = {"kernel": "a.b", "architecture": "sm_90", "width": None, "violations": ["spills"]}
    resources = {"registers": 255, "shared_bytes": 2048, "spilled_bytes": 40, "occupancy": 0.1}
    broken = {"kernel": "c.d", "resources": None} | {"violations": ["does not compile"]}
    record = {
        "git": {"sha": None},
        "kernels": [kernel | {"resources": resources}, kernel | broken],
    }
    svg = draw_kernels(record, tmp_path).read_text(encoding="utf-8")
    assert "255, 2 KiB, 40 B spilled" in svg
    assert "does not compile" in svg
    with pytest.raises(AnalysisError, match="no kernel to plot"):
        draw_kernels(record | {"kernels": []}, tmp_path)
