"""Triton's cache, filled without a device, has the kernels that launches on a device request."""

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
    """Run Python in another process, since kernels are interpreted in this one."""
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
    """Folder of a cache with three variants."""
    folder = tmp_path_factory.mktemp("triton")
    run = python(folder, "-m", "bench", *COMPILE, "--operators", "--only", warm.OPERATOR, "--json")
    assert run.returncode == 0, run.stderr[-3000:]
    output = json.loads(run.stdout)
    assert output["folder"] == output["place"] == str(folder)
    assert [kernel["error"] for kernel in output["kernels"]] == [None] * VARIANTS
    assert not any(kernel["hit"] for kernel in output["kernels"])
    return folder


@pytest.fixture(scope="module")
def compilations(cache, tmp_path_factory):
    """Hits and misses of launches after the cache was moved to another folder."""
    carried = tmp_path_factory.mktemp("carried") / "cache"
    shutil.copytree(cache, carried)
    assert relocate(carried) == VARIANTS
    run = python(carried, warm.__file__)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)


def test_launches_compile_nothing_when_the_cache_is_warm(compilations):
    hits = compilations["same"]["hits"]
    assert len(hits) == compilations["variants"] == VARIANTS
    assert set(hits) == {"adaptive_layer_norm.forward", "adaptive_layer_norm.backward"}
    assert compilations["same"]["misses"] == []


def test_launch_in_another_dtype_is_compiled(compilations):
    assert compilations["other"] == {"hits": [], "misses": ["adaptive_layer_norm.forward"]}


def test_registered_listener_is_called_for_every_compilation(compilations):
    for kind in ("hits", "misses"):
        assert (
            compilations["outer"][kind] == compilations["same"][kind] + compilations["other"][kind]
        )


def test_relocation_names_the_destination_and_can_be_reverted(cache, tmp_path):
    carried = tmp_path / "elsewhere"
    shutil.copytree(cache, carried)
    lists = sorted(carried.glob("*/__grp__*.json"))
    assert relocate(carried, Path("/not/there")) == len(lists) == VARIANTS
    assert all("/not/there/" in path.read_text(encoding="utf-8") for path in lists)
    assert relocate(carried) == VARIANTS
    assert relocate(carried) == 0


def test_relocation_skips_a_damaged_list(cache, tmp_path):
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
def test_invalid_warm_request_is_one_error_line(words, message, capsys):
    assert main(["compile", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_kernels_use_no_constants_of_their_module():
    """Such a constant would make the key in Triton's cache depend on earlier launches."""
    from triton.language import constexpr

    operators = [module.name for module in iter_modules(ops.__path__) if module.ispkg]
    names = [f"refsys.ops.{name}.kernels" for name in operators]
    modules = [import_module(name) for name in names if find_spec(name)]
    assert len(modules) > 10
    for module in modules:
        assert not [name for name, v in vars(module).items() if isinstance(v, constexpr)]


def test_integer_codes_are_never_specialized():
    codes = encoded(range(1000))
    assert [(code >> 1) - 1 for code in codes] == list(range(1000))
    assert all(code != 1 and code % UNIT for code in codes)


def test_common_unit_divides_all_values():
    assert common_unit((16, 48)) == UNIT
    assert common_unit((16, 40)) == 1
    assert common_unit((4, 8), 4) == 4


def test_strides_preserve_adjacency():
    import torch

    assert encoded_strides(torch.empty(2, 3, 5)) == (33, 13, 1)
    assert encoded_strides(torch.empty(2, 3, 5).mT)[-1] == 5
