"""Triton's cache filled without a device holds what launches in front of one ask for."""

import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

import pytest
from support import HANG_S, warm

from bench.cli import main
from bench.compilation.relocation import relocate
from refsys import ops
from refsys.ops.specialization import UNIT, common_unit, encoded, encoded_strides

ROOT = Path(__file__).resolve().parents[2]
COMPILE = ("compile", "--warm", "--architecture", "sm_90", "--tokens", str(warm.TOKENS))
VARIANTS = 3


def python(cache, *arguments):
    """A process of its own: in this one, kernels are interpreted."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH")])
        ),
        "TRITON_CACHE_DIR": str(cache),
    }
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=HANG_S,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with three variants in it."""
    folder = tmp_path_factory.mktemp("triton")
    run = python(folder, "-m", "bench", *COMPILE, "--operators", "--only", warm.OPERATOR, "--json")
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert found["folder"] == found["place"] == str(folder)
    assert [kernel["error"] for kernel in found["kernels"]] == [None] * VARIANTS
    assert not any(kernel["hit"] for kernel in found["kernels"])
    return folder


@pytest.fixture(scope="module")
def found(cache, tmp_path_factory):
    """Kernels that launches take from the cache after it was carried to another folder."""
    carried = tmp_path_factory.mktemp("carried") / "cache"
    shutil.copytree(cache, carried)
    assert relocate(carried) == VARIANTS
    run = python(carried, warm.__file__)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def test_launches_compile_nothing_when_the_cache_is_warm(found):
    hits = found["same"]["hits"]
    assert len(hits) == found["variants"] == VARIANTS
    assert set(hits) == {"adaptive_layer_norm.forward", "adaptive_layer_norm.backward"}
    assert found["same"]["misses"] == []


def test_launch_in_another_dtype_is_compiled(found):
    assert found["other"] == {"hits": [], "misses": ["adaptive_layer_norm.forward"]}


def test_outer_listener_hears_every_compilation(found):
    for kind in ("hits", "misses"):
        assert found["outer"][kind] == found["same"][kind] + found["other"][kind]


def test_relocation_names_the_place_until_it_is_taken_back(cache, tmp_path):
    carried = tmp_path / "elsewhere"
    shutil.copytree(cache, carried)
    lists = sorted(carried.glob("*/__grp__*.json"))
    assert relocate(carried, Path("/not/there")) == len(lists) == VARIANTS
    assert all("/not/there/" in path.read_text(encoding="utf-8") for path in lists)
    assert relocate(carried) == VARIANTS
    assert relocate(carried) == 0


def test_damaged_list_is_left_to_triton(cache, tmp_path):
    carried = tmp_path / "damaged"
    shutil.copytree(cache, carried)
    first, second, *_ = sorted(carried.glob("*/__grp__*.json"))
    first.write_text("{", encoding="utf-8")
    names = json.loads(second.read_text(encoding="utf-8"))["child_paths"]
    (second.parent / next(iter(names))).unlink()
    assert relocate(carried) == VARIANTS - 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--warm"], "name its --architecture"),
        (["--warm", "--architecture", "sm_90", "--at", "here"], "is not an absolute path"),
        (["--warm", "--all", "--architecture", "sm_90"], "--all goes without --warm"),
        (["--tokens", "384"], "--tokens goes with --warm"),
        ([*COMPILE[1:], "--preset", "huge"], "preset='huge'"),
    ],
)
def test_wrong_request_is_one_line(words, message, capsys):
    assert main(["compile", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_kernels_have_no_constants_of_their_module():
    """With such a constant the key in Triton's cache depends on what was launched before."""
    from triton.language import constexpr

    operators = [module.name for module in iter_modules(ops.__path__) if module.ispkg]
    names = [f"refsys.ops.{name}.kernels" for name in operators]
    modules = [import_module(name) for name in names if find_spec(name)]
    assert len(modules) > 10
    for module in modules:
        assert not [name for name, v in vars(module).items() if isinstance(v, constexpr)]


def test_code_of_an_integer_is_never_specialized():
    codes = encoded(range(1000))
    assert [(code >> 1) - 1 for code in codes] == list(range(1000))
    assert all(code != 1 and code % UNIT for code in codes)


def test_common_unit_divides_every_value():
    assert common_unit((16, 48)) == UNIT
    assert common_unit((16, 40)) == 1
    assert common_unit((4, 8), 4) == 4


def test_strides_keep_whether_neighbours_are_adjacent():
    import torch

    assert encoded_strides(torch.empty(2, 3, 5)) == (33, 13, 1)
    assert encoded_strides(torch.empty(2, 3, 5).mT)[-1] == 5
