"""Text files are UTF-8 in any locale: every call that opens one names the encoding.

Ruff's PLW1514 needs the type of a path; this check examines every call by its name.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("analysis", "bench", "docs", "refsys", "tests", "workloads")
TEXT_MODE = re.compile("[rwaxt+]+")
# Positional arguments before the encoding of methods of a path.
READERS = {"read_text": 0, "write_text": 1}
# Position of the mode.
OPENERS = {"open": 1, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0}


def calls_without_encoding(source):
    """Yield the line of each call that reads or writes text in the locale's encoding."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and leaves_encoding_open(node):
            yield node.lineno


def leaves_encoding_open(call):
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in options:
        return False
    if any(is_constant(options.get(name), True) for name in ("text", "universal_newlines")):
        return True  # of a process
    method = isinstance(call.func, ast.Attribute)
    name = call.func.attr if method else getattr(call.func, "id", "")
    if method and name in READERS:
        return len(call.args) == READERS[name]
    if name not in OPENERS:
        return False
    # A path's own `open` starts with the mode.
    position = 0 if method and name == "open" else OPENERS[name]
    mode = options.get("mode") or (call.args[position] if len(call.args) > position else None)
    if mode is None:
        plain = len(call.args) == position and options.keys() <= {"buffering", "errors", "newline"}
        return plain and name in {"open", "fdopen"}
    return isinstance(mode, ast.Constant) and bool(TEXT_MODE.fullmatch(str(mode.value)))


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("folder", FOLDERS)
def test_text_files_are_opened_with_their_encoding(folder):
    calls = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in calls_without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert not calls


@pytest.mark.parametrize(
    "call",
    [
        "path.read_text()",
        "path.write_text(text)",
        "path.open()",
        "path.open(newline='')",
        "path.open('a')",
        "open(path)",
        "open(path, mode='w')",
        "os.fdopen(3, 'w')",
        "NamedTemporaryFile('w')",
        "subprocess.run(words, text=True)",
    ],
)
def test_call_without_an_encoding_is_found(call):
    assert list(calls_without_encoding(call)) == [1]


@pytest.mark.parametrize(
    "call",
    [
        "path.read_text(encoding='utf-8')",
        "path.read_text('utf-8', 'replace')",
        "path.open('rb')",
        "open(path, 'wb')",
        "store.open(entry)",
        "tarfile.open(path)",
        "tarfile.open(fileobj=file)",
        "os.open(path, os.O_RDONLY)",
        "TemporaryFile()",
        "subprocess.run(words, encoding='utf-8')",
    ],
)
def test_call_with_bytes_or_an_encoding_is_accepted(call):
    assert not list(calls_without_encoding(call))
