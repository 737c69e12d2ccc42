"""Third-party packages: each one that is imported is declared in pyproject.toml."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("refsys", "workloads", "bench", "analysis")
# Modules of this repository that others import from its search path.
LOCAL = {*PACKAGES, "support", "pairformer", "derived_pages", "docstrings"}


def imported_packages(folder):
    """Return the files that import each third-party package, by its top-level module."""
    files = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            else:
                continue
            for module in modules:
                files.setdefault(module.split(".")[0], []).append(str(path.relative_to(folder)))
    third_party = files.keys() - LOCAL - sys.stdlib_module_names
    return {name: files[name] for name in sorted(third_party)}


def normalized(name):
    """Return the name of a distribution or requirement as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", name)[0]).lower()


def declared(*, tests):
    """Return the distributions that pyproject.toml names, those for tests alone on request."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    chosen = [extras[name] for name in extras if tests or name != "test"]
    return {normalized(text) for text in sum(chosen, project["dependencies"])}


def undeclared(folder, names):
    """Return the third-party packages that a folder imports and no name declares."""
    distributions = packages_distributions()
    return {
        module: files
        for module, files in imported_packages(folder).items()
        if not names & {normalized(name) for name in distributions.get(module, [module])}
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_only_declared_distributions(package):
    assert not undeclared(ROOT / package, declared(tests=False))


@pytest.mark.parametrize("folder", ["tests", "docs", "examples"])
def test_tests_and_examples_import_only_declared_distributions(folder):
    assert not undeclared(ROOT / folder, declared(tests=True))


def test_undeclared_import_is_found_with_its_file(tmp_path):
    """A mutant: a package that another one brings, and one that is not installed."""
    (tmp_path / "a.py").write_text("def f():\n    import sympy.core, json\n", encoding="utf-8")
    (tmp_path / "b.py").write_text("from no_such.part import x\n", encoding="utf-8")
    names = declared(tests=True)
    assert undeclared(tmp_path, names) == {"sympy": ["a.py"], "no_such": ["b.py"]}
