"""Triton's interpreter for the kernels, with exact products and less patching."""

import pytest
from support import products
from triton.runtime import interpreter


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call_helper)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", products.create_dot)


def call_helper(helper, *arguments, **options):
    """Call a helper like the interpreter, without patching the language at every call.

    A kernel's start patches the language that kernels see while it runs; that of Triton's library
    has to be patched once. Patching it every time takes a fifth of these tests' time.
    """
    core = interpreter.tl.core
    if core.is_builtin(core.arange):
        interpreter._patch_lang(interpreter.tl.sigmoid.fn)
    return helper.rewrite()(*arguments, **options)
