"""Direction of imports, and the packages that measuring may import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = {"refsys", "workloads", "bench", "analysis"}
MAY_IMPORT = {
    "refsys": set(),
    "workloads": {"refsys"},
    "bench": {"refsys", "workloads"},
    "analysis": set(),
}
# Measuring: the standard library, and these.
MEASURING = {"numpy", "torch", "triton", "pynvml", "amdsmi"}
HEAVY = (
    *("biotite", "gemmi", "pyarrow"),
    *("pandas", "matplotlib", "rich", "jinja2", "scipy", "jsonschema", "hypothesis"),
)


def imports_of(path):
    """(module, whether it is imported when the file is) of each import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, id(node) not in lazy


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_go_one_way(package):
    for path in (ROOT / package).rglob("*.py"):
        inside_cli = path.is_relative_to(ROOT / "bench" / "cli")
        for module, _ in imports_of(path):
            top = module.split(".")[0]
            if top not in OURS - {package}:
                continue
            allowed = top in MAY_IMPORT[package] or (inside_cli and top == "analysis")
            allowed |= package == "analysis" and module.startswith("bench.records")
            assert allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_measuring_imports_only_allowed_packages():
    """Check the imports that run when a file of the measuring packages is imported."""
    for package in ("refsys", "workloads", "bench"):
        for path in (ROOT / package).rglob("*.py"):
            for module, eager in imports_of(path):
                top = module.split(".")[0]
                known = top in OURS | MEASURING or top in sys.stdlib_module_names
                assert known or not eager, f"{path.relative_to(ROOT)} imports {module}"


def test_measuring_works_without_optional_packages(tmp_path, store):
    """Run a sweep, a training and doctor while all other packages refuse to be imported."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nfor name in {HEAVY}:\n    sys.modules[name] = None\n", encoding="utf-8"
    )
    (tmp_path / "s.toml").write_text(
        "[protocol]\nwarmup_steps = 0\ntimed_steps = 1\n"
        '[[case]]\nworkload = "alphafold3-trunk"\naxes = { tokens = 16, entry = "8vkf" }\n',
        encoding="utf-8",
    )

    def foldperf(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "bench", *arguments],
            cwd=tmp_path,
            env={
                "PYTHONPATH": f"{tmp_path}:{ROOT}",
                "PATH": "/usr/bin:/bin",
                "HOME": str(tmp_path),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    done = foldperf("run", "s.toml", "--store", str(store.root))
    assert done.returncode == 0, done.stderr
    assert "1 ok" in done.stdout
    assert foldperf("doctor").returncode == 0
    steps = ("--entries", "1ubq", "--steps", "1", "--tokens", "16", "--cycles", "1", "--out", "t")
    steps += ("--store", str(store.root))
    assert foldperf("train", *steps).returncode == 0
    assert foldperf("gate", "--only", "trunk preset=tiny", "--jobs", "1").returncode == 0
    for command in (("prepare", "x.cif"), ("fold", "1ubq"), ("report",)):
        refused = foldperf(*command)
        assert refused.returncode == 2
        assert "pip install 'foldperf[" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_help_starts_without_torch():
    code = (
        "import sys; from bench.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    code += "assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
