"""Our kernels, interpreted: which way they run is decided when they are first imported."""

from importlib import import_module
from pathlib import Path

import pytest

from refsys import ops


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for file in Path(ops.__path__[0]).glob("*/kernels.py"):
        import_module(f"refsys.ops.{file.parent.name}.kernels")
