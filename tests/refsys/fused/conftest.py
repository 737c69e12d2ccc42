"""The interpreter for our kernels, with exact products and less patching."""

import pytest
from support import products
from triton.runtime import interpreter


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call_helper)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", products.create_dot)


def call_helper(helper, *arguments, **options):
    """As the interpreter does it, but for patching the language anew at every call.

    A kernel's start patches what kernels see, for its own time; what Triton's library sees has to
    be patched once. Doing so every time takes a fifth of these tests' time.
    """
    core = interpreter.tl.core
    if core.is_builtin(core.arange):
        interpreter._patch_lang(interpreter.tl.sigmoid.fn)
    return helper.rewrite()(*arguments, **options)
