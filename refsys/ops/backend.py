"""Choosing the implementation of an operator: one mechanism for all of them.

The first that speaks decides: the explicit `backend` argument, the innermost `use_backend`
context, the environment variable FOLDPERF_BACKEND, else the best available for the device. A named
backend that cannot run here is replaced by `reference`; the fallback is counted, with its reason,
and ends up in the record.
"""

import functools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from refsys.errors import ArgumentError

BACKENDS = ("reference", "compiled")
ENVIRONMENT_VARIABLE = "FOLDPERF_BACKEND"

OPERATORS: dict[str, "Operator"] = {}


class Fallback(NamedTuple):
    """An operator that could not run on the backend that was asked for."""

    operator: str
    backend: str
    reason: str


_fallbacks: Counter[Fallback] = Counter()
_chosen: ContextVar[Mapping[str, str]] = ContextVar(
    "foldperf_backend", default=MappingProxyType({})
)


def fallbacks() -> Counter[Fallback]:
    """How often each fallback happened in this process, so far."""
    return _fallbacks.copy()


@contextmanager
def use_backend(every: str | None = None, /, **by_operator: str) -> Iterator[None]:
    """Chooses backends inside a `with` block, for every operator or by operator name.

    Raises:
        ArgumentError: a backend or an operator of that name does not exist.
    """
    choice = dict(_chosen.get())
    if every is not None:
        choice = {"*": _known(every)}
    for operator, backend in by_operator.items():
        if operator not in OPERATORS:
            raise ArgumentError(
                f"operator {operator!r} does not exist; choose of {', '.join(sorted(OPERATORS))}"
            )
        choice[operator] = _known(backend)
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


@dataclass(frozen=True)
class Operator:
    """One operator: its specification, its exact costs, and where its implementations are chosen.

    Attributes:
        name: The folder's name.
        reference: Plain PyTorch; the specification.
        flops: Floating-point operations of one forward call (2 per multiply-add of the matrix
            products; pointwise work is not counted), from the operator's own arguments.
        minimum_bytes: Bytes that any implementation must move in one forward call: each input
            read once, each output written once.
    """

    name: str
    reference: Callable[..., Any]
    flops: Callable[..., int]
    minimum_bytes: Callable[..., int]

    def __post_init__(self) -> None:
        OPERATORS[self.name] = self

    def __call__(self, *args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        """Runs the operator on the chosen backend; the arguments are `reference`'s."""
        if self.choose(backend, args[0]) == "compiled":
            return self._compiled(*args, **kwargs)
        return self.reference(*args, **kwargs)

    def choose(self, explicit: str | None, tensor: Tensor) -> str:
        """The backend that a call on `tensor` gets; counts a fallback if it is not as asked."""
        context = _chosen.get()
        asked = (
            (explicit and _known(explicit))
            or context.get(self.name)
            or context.get("*")
            or _from_environment(os.environ.get(ENVIRONMENT_VARIABLE, ""), self.name)
        )
        if asked is None:
            return "compiled" if tensor.is_cuda and not _why_not_compiled(tensor) else "reference"
        if asked == "compiled" and (reason := _why_not_compiled(tensor)):
            _fallbacks[Fallback(self.name, asked, reason)] += 1
            return "reference"
        return asked

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        # Past its limit dynamo would go back to eager without a word; a sweep of shapes may not.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 256)
        return torch.compile(self.reference, dynamic=False)


def _known(backend: str) -> str:
    if backend not in BACKENDS:
        raise ArgumentError(f"backend={backend!r} does not exist; choose of {', '.join(BACKENDS)}")
    return backend


@functools.lru_cache(maxsize=256)
def _from_environment(text: str, operator: str) -> str | None:
    """Reads `compiled` or `transition=compiled,triangle_attention=reference`."""
    choice: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, backend = part.rpartition("=")
        if name and name not in OPERATORS:
            raise ArgumentError(f"{ENVIRONMENT_VARIABLE}: operator {name!r} does not exist")
        choice[name or "*"] = _known(backend)
    return choice.get(operator) or choice.get("*")


def _why_not_compiled(tensor: Tensor) -> str | None:
    """Why torch.compile cannot serve a call on `tensor`, or None."""
    if tensor.is_meta or _get_current_dispatch_mode() is not None:
        return "a dispatch mode or meta tensor is watching the operators one by one"
    if tensor.device.type == "cpu":
        return _no_compiler()
    return None


@functools.cache
def _no_compiler() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"no C++ compiler ({compiler}) on the PATH"
