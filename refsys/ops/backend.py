"""Choice of the implementation of an operator: one mechanism for all of them.

In order of precedence: the explicit `backend` argument, the innermost `use_backend` block, the
environment variable FOLDPERF_BACKEND, the best available implementation for the device. A named
backend that cannot run is replaced by `reference`; the fallback is counted, with its reason, and
appears in the record.
"""

import functools
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils._pytree import tree_leaves

from refsys.errors import ArgumentError
from refsys.ops.scope import current, override

# This project's own implementations, the best last; then those that are never a default: torch's
# attention, and other packages.
OWN = ("reference", "compiled", "triton")
BASELINES = ("sdpa", "flex", "cuequivariance", "trifast", "deepspeed", "turbopairformer")
BACKENDS = (*OWN, *BASELINES)
ENVIRONMENT_VARIABLE = "FOLDPERF_BACKEND"

_RECOMPILE_LIMIT = 256

OPERATORS: dict[str, "Operator"] = {}


class Fallback(NamedTuple):
    """An operator that could not run on the requested backend, and the reason."""

    operator: str
    backend: str
    reason: str


class Choice(NamedTuple):
    """An operator and the backend that it ran on."""

    operator: str
    backend: str


_fallbacks: Counter[Fallback] = Counter()
_calls: Counter[Choice] = Counter()


def fallbacks() -> Counter[Fallback]:
    """Return the number of occurrences of each fallback in this process, so far."""
    return _fallbacks.copy()


def calls() -> Counter[Choice]:
    """Return the number of calls of each operator on each backend in this process, so far."""
    return _calls.copy()


def is_deterministic(operator: str, backend: str) -> bool:
    """Return whether two runs of an operator on a backend give the same bits."""
    implementation = OPERATORS[operator].implementations.get(backend)
    return implementation is None or implementation.deterministic


@contextmanager
def use_backend(every: str | None = None, /, **by_operator: str) -> Iterator[None]:
    """Choose backends inside a `with` block, for every operator or by operator name.

    The choice holds in this thread; `carry_backends` takes it to another one.

    Raises:
        ArgumentError: a backend or an operator of that name does not exist.
    """
    backends = dict(current().backends)
    if every is not None:
        backends = {"*": _check_backend(every)}
    for operator, backend in by_operator.items():
        if operator not in OPERATORS:
            raise ArgumentError(
                f"operator {operator!r} does not exist; choose of {', '.join(sorted(OPERATORS))}"
            )
        backends[operator] = _check_backend(backend)
    with override(this_thread_only=True, backends=MappingProxyType(backends)):
        yield


def carry_backends(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function` with the backends chosen now, whichever thread calls it.

    A recomputation in the backward pass runs in a thread of autograd's.
    """
    backends = current().backends

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        with override(this_thread_only=True, backends=backends):
            return function(*args)

    return run


@dataclass(frozen=True, slots=True)
class Implementation:
    """An implementation of an operator beside its reference.

    Attributes:
        run: Called with the operator's arguments.
        unsupported_reason: Called with the same arguments; returns why `run` cannot serve them, or
            None if it can.
        deterministic: Whether two runs give the same bits.
    """

    run: Callable[..., Any]
    unsupported_reason: Callable[..., str | None]
    deterministic: bool = True


@dataclass(frozen=True)
class Operator:
    """An operator: its specification, its exact costs, and its implementations.

    Attributes:
        name: Name of the operator.
        reference: Plain PyTorch; the specification.
        flops: Floating-point operations of one forward call (2 per multiply-add of the matrix
            products; pointwise work is not counted), from the operator's arguments.
        minimum_bytes: Bytes that any implementation must move in one forward call: each input
            read once, each output written once.
        kernels: This project's implementations by backend, the best first; ``compiled`` comes
            after them.
        baselines: Other implementations by backend; used only on request.
        scores: Number of logits in the softmax of one forward call.
        weights: Named tuple of weights among the arguments; None if they are plain arguments.
        weights_position: Position of that tuple among the arguments.
    """

    name: str
    reference: Callable[..., Any]
    flops: Callable[..., int]
    minimum_bytes: Callable[..., int]
    kernels: Mapping[str, Implementation] = field(default_factory=dict)
    baselines: Mapping[str, Implementation] = field(default_factory=dict)
    scores: Callable[..., int] = lambda *_arguments, **_options: 0
    weights: type[NamedTuple] | None = None
    weights_position: int = 1

    def __post_init__(self) -> None:
        OPERATORS[self.name] = self

    def __call__(self, *args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        """Run the operator on the selected backend; the arguments are `reference`'s."""
        selected = self.choose(backend, *args, **kwargs)
        _calls[Choice(self.name, selected)] += 1
        if selected == "reference":
            return self.reference(*args, **kwargs)
        return self.implementations[selected].run(*args, **kwargs)

    def choose(self, explicit: str | None, *args: Any, **kwargs: Any) -> str:
        """Return the backend that serves a call; count a fallback if it is not the requested one.

        Args:
            explicit: Requested backend; None leaves it to the block, the environment or the device.
            *args: The operator's arguments.
            **kwargs: Its options.
        """
        requested = (explicit and _check_backend(explicit)) or _requested(self.name)
        if requested is None:
            return self._best(*args, **kwargs)
        if requested == "reference":
            return requested
        implementation = self.implementations.get(requested)
        reason = (
            implementation.unsupported_reason(*args, **kwargs)
            if implementation
            else "it has no such implementation"
        )
        if reason:
            _fallbacks[Fallback(self.name, requested, reason)] += 1
            return "reference"
        return requested

    def with_flat_arguments(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of the operator's arguments as one of a flat list of tensors.

        Args:
            function: The operator itself, or one of its attributes, as ``operator.flops``.
        """
        if self.weights is None:
            return function
        weights, first = self.weights, self.weights_position
        last = first + len(weights._fields)

        def call(*tensors: Any, **options: Any) -> Any:
            group = weights(*tensors[first:last])
            return function(*tensors[:first], group, *tensors[last:], **options)

        return call

    def _best(self, *args: Any, **kwargs: Any) -> str:
        """Return the first implementation that can run; on a CPU none is worth its compilation."""
        if not args[0].is_cuda:
            return "reference"
        for name, implementation in self.implementations.items():
            if name in self.baselines or implementation.unsupported_reason(*args, **kwargs):
                continue
            return name
        return "reference"

    @functools.cached_property
    def implementations(self) -> Mapping[str, Implementation]:
        """Implementations other than the reference, by backend, the best first."""
        compiled = Implementation(self._run_compiled, _unsupported_by_compiler)
        return {**self.kernels, "compiled": compiled, **self.baselines}

    @functools.cached_property
    def _compiled(self) -> Callable[..., Any]:
        """The reference under torch.compile, whose import takes seconds."""
        return torch.compile(self.reference, dynamic=False)

    def _run_compiled(self, *args: Any, **kwargs: Any) -> Any:
        # Beyond its limit dynamo falls back to eager silently, which a sweep of shapes must not.
        # Its settings are per thread, and autograd's threads call this too.
        compiled, dynamo = self._compiled, torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, _RECOMPILE_LIMIT)
        return compiled(*args, **kwargs)


def flat_tensors(*args: Any) -> list[Tensor]:
    """Return the tensors among arguments, named tuples of weights unpacked and None left out."""
    return [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]


def requested_for_all() -> str | None:
    """Return the backend that is requested without naming an operator, or None."""
    return _requested("*")


def _requested(operator: str) -> str | None:
    backends = current().backends
    return (
        backends.get(operator)
        or backends.get("*")
        or _from_environment(os.environ.get(ENVIRONMENT_VARIABLE, ""), operator)
    )


def _check_backend(backend: str) -> str:
    if backend not in BACKENDS:
        raise ArgumentError(f"backend={backend!r} does not exist; choose of {', '.join(BACKENDS)}")
    return backend


@functools.lru_cache(maxsize=256)
def _from_environment(text: str, operator: str) -> str | None:
    """Parse `compiled` or `transition=compiled,triangle_attention=reference`."""
    backends: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, backend = part.rpartition("=")
        if name and name not in OPERATORS:
            raise ArgumentError(f"{ENVIRONMENT_VARIABLE}: operator {name!r} does not exist")
        backends[name or "*"] = _check_backend(backend)
    return backends.get(operator) or backends.get("*")


def _unsupported_by_compiler(*args: Any, **kwargs: Any) -> str | None:
    """Return why torch.compile cannot serve a call with these arguments, or None."""
    tensors = flat_tensors(args, kwargs)
    if any(tensor.is_meta for tensor in tensors) or _get_current_dispatch_mode() is not None:
        return "a dispatch mode or meta tensor is watching the operators one by one"
    if any(tensor.device.type == "cpu" for tensor in tensors):
        return _missing_compiler()
    return None


@functools.cache
def _missing_compiler() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    return None if shutil.which(compiler) else f"no C++ compiler ({compiler}) on the PATH"
