"""Direction of imports, and the packages that measuring may import."""

import ast
import json
import re
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
        "[protocol]\nwarmup_steps = 0\ntimed_steps = 1\nenergy_s = 0.1\n"
        '[[case]]\nworkload = "alphafold3-trunk"\n'
        'axes = { tokens = 16, entry = "8vkf", cycles = 1, alignment_rows = 4 }\n',
        encoding="utf-8",
    )

    def python(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
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

    # One process for all commands: importing torch takes most of the time of each.
    train = "train --entries 1ubq --steps 1 --tokens 16 --cycles 1 --out t --store".split()
    commands = {
        "run": ["run", "s.toml", "--store", str(store.root)],
        "doctor": ["doctor"],
        "train": [*train, str(store.root)],
        "gate": ["gate", "--only", "pipeline", "--jobs", "1"],
        "prepare": ["prepare", "x.cif"],
        "fold": ["fold", "1ubq"],
        "report": ["report"],
        "export": ["export", "csv"],
    }
    # What measuring commands import of the analysis.
    script = "import analysis.errors, analysis.published\n"
    script += "import json, sys\nfrom bench.cli import main\n"
    script += "for name, words in json.loads(sys.argv[1]).items():\n"
    script += "    print('status', name, main(words), flush=True)\n"
    done = python("-c", script, json.dumps(commands))
    statuses = dict(re.findall(r"^status (\w+) (\d+)$", done.stdout, re.MULTILINE))
    refused = ("prepare", "fold", "report", "export")
    assert statuses == {name: "2" if name in refused else "0" for name in commands}, done.stderr
    assert "1 ok" in done.stdout
    assert done.stderr.count("pip install 'foldperf[") == len(refused)
    assert "Traceback" not in done.stderr


def test_help_starts_without_torch():
    code = (
        "import sys; from bench.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    )
    code += "assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
