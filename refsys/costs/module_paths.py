"""Module path of an operator in forward, in recomputation and in backward."""

import re
from bisect import bisect_right
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

_NUMBER = re.compile(r"\.\d+(?=\.|$)")


class ModulePaths:
    """Follow calls into the modules of one model while entered.

    An autograd node carries the sequence number of its creation. Entries and exits of modules are
    recorded with that counter, so that a node that runs in backward is traced to the module that
    created it. Blocks of a list share one path: ``blocks.3.norm`` is ``blocks.*.norm``.
    """

    def __init__(self, root: nn.Module) -> None:
        self._paths = {id(m): _NUMBER.sub(".*", path) for path, m in root.named_modules()}
        self._parameter_paths = {
            id(parameter): self._paths[id(module)]
            for module in root.modules()
            for parameter in module.parameters(recurse=False)
        }
        self._stack: list[str] = [""]
        self._sequence = [0]
        self._entered = [""]
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        for handle in (
            register_module_forward_pre_hook(self._enter),
            # A recomputation ends early by an exception, and its modules are left all the same.
            register_module_forward_hook(self._leave, always_call=True),
        ):
            self._hooks.callback(handle.remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def current(self) -> tuple[str, bool]:
        """Return the module path of the running operator, and whether it is being recomputed."""
        node = torch._C._current_autograd_node()
        if node is None:
            return self._stack[-1], False
        if len(self._stack) > 1:
            return self._stack[-1], True
        variable = getattr(node, "variable", None)
        if variable is not None:
            return self._parameter_paths.get(id(variable), ""), False
        index = bisect_right(self._sequence, node._sequence_nr()) - 1
        return self._entered[max(index, 0)], False

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._push(self._paths.get(id(module), self._stack[-1]))

    def _leave(self, module: nn.Module, _inputs: Any, _output: Any) -> None:
        del module
        self._stack.pop()
        self._record(self._stack[-1])

    def _push(self, path: str) -> None:
        self._stack.append(path)
        self._record(path)

    def _record(self, path: str) -> None:
        # Nodes that a recomputation creates never run, and another thread has a counter of its own.
        if torch._C._current_autograd_node() is not None:
            return
        self._sequence.append(torch.autograd._get_sequence_nr())
        self._entered.append(path)
