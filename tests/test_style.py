"""Rules of style that linters do not have: named weights, and calls that tools can follow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("refsys", "workloads", "bench")
# Sequences of tensors, or of their shapes, whose members have names.
SEQUENCES = frozenset(
    "weights parameters saved saved_tensors tensors args arguments inputs outputs gradients shapes "
    "needs_input_grad".split()
)
HIGHEST = 3
# Files that may call methods by a name computed at run time, and why.
BY_NAME: dict[str, str] = {}
# Files that may read a configuration by string keys, and why.
BY_KEY = {
    "bench/asv/benchmarks.py": "axes of records whose workload may not be installed",
    "bench/run/points.py": "axes of records of earlier versions, which lack some",
}


def positional_indices(source):
    """Lines that index a sequence of tensors by a constant above `HIGHEST`."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Subscript):
            continue
        base = node.value
        name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
        index = node.slice
        bounds = [index.lower, index.upper] if isinstance(index, ast.Slice) else [index]
        constants = [bound.value for bound in bounds if isinstance(bound, ast.Constant)]
        if name in SEQUENCES and any(isinstance(c, int) and c > HIGHEST for c in constants):
            yield node.lineno


def calls_by_name(source):
    """Lines that look up a member of `self` by a formatted name."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "getattr"
            and ast.unparse(node.args[0]) == "self"
            and isinstance(node.args[1], ast.JoinedStr)
        ):
            yield node.lineno


def reads_by_key(source):
    """Yield the lines that read a configuration or its axes by a string key."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Subscript):
            base, key = node.value, node.slice
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            base, key = node.func.value, node.args[0]
        else:
            continue
        name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
        is_key = isinstance(key, ast.Name) or (
            isinstance(key, ast.Constant) and isinstance(key.value, str)
        )
        if name in {"config", "configuration", "axes"} and is_key:
            yield node.lineno


def offences(rule):
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines = list(rule(path.read_text(encoding="utf-8")))
            if lines:
                found[path.relative_to(ROOT).as_posix()] = lines
    return found


def test_weights_and_saved_tensors_are_not_indexed_by_high_positions():
    assert offences(positional_indices) == {}


def test_methods_are_not_called_by_formatted_names():
    assert offences(calls_by_name).keys() <= BY_NAME.keys()


def test_configurations_are_not_read_by_string_keys():
    found = offences(reads_by_key)
    assert {path for path in found if not path.startswith("refsys/")} == BY_KEY.keys()


@pytest.mark.parametrize(
    "source", ['config["tokens"]', "case.config.get('tokens', 0)", "axes[name]"]
)
def test_rule_of_keys_finds_reads_by_key(source):
    assert list(reads_by_key(source)) == [1]


@pytest.mark.parametrize("source", ["config.tokens", "axes[0]", 'record["config"]'])
def test_rule_of_keys_accepts_attributes_and_positions(source):
    assert not list(reads_by_key(source))


@pytest.mark.parametrize(
    "source", ["parameters[7]", "ctx.saved_tensors[5]", "weights[4:]", "inputs[:5]"]
)
def test_rule_of_indices_finds_high_positions(source):
    assert list(positional_indices(source)) == [1]


@pytest.mark.parametrize("source", ["parameters[3]", "weights[first:]", "shape[5]", "inputs[-1]"])
def test_rule_of_indices_accepts_low_positions_and_other_sequences(source):
    assert not list(positional_indices(source))


def test_rule_of_calls_finds_formatted_names():
    assert list(calls_by_name('getattr(self, f"_{phase}")()')) == [1]
    assert not list(calls_by_name('getattr(self, name); getattr(other, f"_{phase}")'))
