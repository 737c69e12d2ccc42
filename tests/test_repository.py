"""Files that tools and visitors look for agree with pyproject.toml and the Makefile."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = ROOT / ".github" / "workflows"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def recipe(target):
    """Return the commands of a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    match = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", makefile, re.MULTILINE)
    assert match, f"the Makefile has no target {target}"
    return match[1]


def workflow_steps(name):
    """Return the steps of all jobs of a workflow."""
    jobs = read_yaml(WORKFLOWS / name)["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


def test_tests_workflow_runs_on_every_supported_python():
    (job,) = read_yaml(WORKFLOWS / "tests.yml")["jobs"].values()
    prefix = "Programming Language :: Python :: "
    supported = [
        text.removeprefix(prefix) for text in PROJECT["classifiers"] if text.startswith(prefix)
    ]
    assert job["strategy"]["matrix"]["python"] == supported
    assert PROJECT["requires-python"] == f">={supported[0]}"


def test_workflows_run_on_pull_requests_with_commands_that_exist():
    names = {path.name for path in WORKFLOWS.iterdir()}
    assert names == {"docs.yml", "tests.yml", "gates.yml", "kernels.yml"}
    targets = []
    for name in sorted(names):
        # YAML 1.1 reads the key `on` as true.
        assert "pull_request" in read_yaml(WORKFLOWS / name)[True]
        for step in workflow_steps(name):
            targets += re.findall(r"^make (?:\w+=\S+ )*(\S+)$", step.get("run", ""), re.MULTILINE)
    assert targets == ["docs", "compile-gate", "warm-check", "test"]
    for target in targets:
        recipe(target)


def test_pre_commit_runs_the_tools_of_make_lint():
    (repository,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = [hook["entry"].split()[:2] for hook in repository["hooks"]]
    commands = [
        line.replace("$(BIN)", ".venv/bin").split()[:2] for line in recipe("lint").split("\n")
    ]
    assert hooks == [words for words in commands if words]


def test_citation_and_changelog_name_the_version():
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)
    assert versions[:2] == ["Unreleased", PROJECT["version"]]


def test_every_package_is_marked_as_typed():
    for package in ("refsys", "workloads", "bench", "analysis"):
        assert (ROOT / package / "py.typed").is_file()
