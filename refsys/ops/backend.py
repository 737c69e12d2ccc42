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
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from refsys.errors import ArgumentError

# Ours, the best last; then what is never a default: torch's own attention, and other packages.
OWN = ("reference", "compiled", "triton")
PEERS = ("sdpa", "flex", "cuequivariance", "trifast", "deepspeed", "turbopairformer")
BACKENDS = (*OWN, *PEERS)
ENVIRONMENT_VARIABLE = "FOLDPERF_BACKEND"

_RECOMPILE_LIMIT = 256

OPERATORS: dict[str, "Operator"] = {}


class Fallback(NamedTuple):
    """An operator that could not run on the backend that was asked for."""

    operator: str
    backend: str
    reason: str


class Choice(NamedTuple):
    """An operator and the backend that it ran on."""

    operator: str
    backend: str


_fallbacks: Counter[Fallback] = Counter()
_calls: Counter[Choice] = Counter()
_chosen: ContextVar[Mapping[str, str]] = ContextVar(
    "foldperf_backend", default=MappingProxyType({})
)


def fallbacks() -> Counter[Fallback]:
    """How often each fallback happened in this process, so far."""
    return _fallbacks.copy()


def calls() -> Counter[Choice]:
    """How often each operator ran on each backend in this process, so far."""
    return _calls.copy()


def is_deterministic(operator: str, backend: str) -> bool:
    """Whether two runs of an operator on a backend give the same bits."""
    way = OPERATORS[operator].implementations.get(backend)
    return way is None or way.deterministic


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


@dataclass(frozen=True, slots=True)
class Implementation:
    """One way to run an operator, apart from its reference.

    Attributes:
        run: Called with the operator's own arguments.
        why_not: Called with them; why `run` cannot serve them, or None if it can.
        deterministic: Whether two runs give the same bits.
    """

    run: Callable[..., Any]
    why_not: Callable[..., str | None]
    deterministic: bool = True


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
        kernels: Implementations of its own by backend, the best first; ``compiled`` comes after
            them.
        peers: What others have made of it, by backend; only if asked for.
        scores: Logits that one forward call takes softmax of.
    """

    name: str
    reference: Callable[..., Any]
    flops: Callable[..., int]
    minimum_bytes: Callable[..., int]
    kernels: Mapping[str, Implementation] = field(default_factory=dict)
    peers: Mapping[str, Implementation] = field(default_factory=dict)
    scores: Callable[..., int] = lambda *_arguments, **_options: 0

    def __post_init__(self) -> None:
        OPERATORS[self.name] = self

    def __call__(self, *args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        """Runs the operator on the chosen backend; the arguments are `reference`'s."""
        chosen = self.choose(backend, *args, **kwargs)
        _calls[Choice(self.name, chosen)] += 1
        if chosen == "reference":
            return self.reference(*args, **kwargs)
        return self.implementations[chosen].run(*args, **kwargs)

    def choose(self, explicit: str | None, *args: Any, **kwargs: Any) -> str:
        """The backend that a call gets; counts a fallback if it is not as asked."""
        asked = (explicit and _known(explicit)) or _asked(self.name)
        if asked is None:
            return self._best(*args, **kwargs)
        if asked == "reference":
            return asked
        way = self.implementations.get(asked)
        reason = way.why_not(*args, **kwargs) if way else "it has no such implementation"
        if reason:
            _fallbacks[Fallback(self.name, asked, reason)] += 1
            return "reference"
        return asked

    def _best(self, *args: Any, **kwargs: Any) -> str:
        """On an accelerator the first that can run; on a CPU nothing is worth its compilation."""
        if not args[0].is_cuda:
            return "reference"
        for name, way in self.implementations.items():
            if name not in self.peers and not way.why_not(*args, **kwargs):
                return name
        return "reference"

    @functools.cached_property
    def implementations(self) -> Mapping[str, Implementation]:
        """Every implementation but the reference, by backend, the best first."""
        compiled = Implementation(self._run_compiled, _why_not_compiled)
        return {**self.kernels, "compiled": compiled, **self.peers}

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        """The reference under torch.compile, whose import takes seconds of a CPU."""
        return torch.compile(self.reference, dynamic=False)

    def _run_compiled(self, *args: Any, **kwargs: Any) -> Any:
        # Past its limit dynamo would go back to eager without a word; a sweep of shapes may not.
        # Its settings are each thread's own, and autograd's threads call this too.
        compiled, dynamo = self._compiled, torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, _RECOMPILE_LIMIT)
        return compiled(*args, **kwargs)


def asked_for_all() -> str | None:
    """The backend that is asked for without naming an operator, or None."""
    return _asked("*")


def _asked(operator: str) -> str | None:
    context = _chosen.get()
    return (
        context.get(operator)
        or context.get("*")
        or _from_environment(os.environ.get(ENVIRONMENT_VARIABLE, ""), operator)
    )


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


def _why_not_compiled(*args: Any, **kwargs: Any) -> str | None:
    """Why torch.compile cannot serve a call with these arguments, or None."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if any(tensor.is_meta for tensor in tensors) or _get_current_dispatch_mode() is not None:
        return "a dispatch mode or meta tensor is watching the operators one by one"
    if any(tensor.device.type == "cpu" for tensor in tensors):
        return _no_compiler()
    return None


@functools.cache
def _no_compiler() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"no C++ compiler ({compiler}) on the PATH"
