"""Choice of a program's operator implementations, and a note of those that ran."""

import os
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch

from refsys import ops
from refsys.ops import tuning
from refsys.ops.backend import BACKENDS
from refsys.options import option
from refsys.run_config import DEFAULT_BACKEND


def backend_option() -> Any:
    """Declare the implementation of the operators, of programs that call them directly."""
    choices = (DEFAULT_BACKEND, *BACKENDS)
    return option("reference", "implementation of the operators", choices=choices)


# As Triton reads TRITON_INTERPRET.
_YES = frozenset({"1", "true", "on", "yes", "y"})


def unsupported_reason(backend: str, device: torch.device) -> str | None:
    """Return why no operator can run on a backend on this device, None if some may.

    Without it such a case would run on the reference, and be recorded under another name.
    """
    if backend != "triton":
        return None
    if find_spec("triton") is None:
        return "backend=triton: triton is not installed"
    interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in _YES
    if device.type == "cpu" and not interpreted:
        return "backend=triton needs an accelerator: its kernels do not run on a CPU"
    return None


class Backends:
    """Backend choice of a program, and the calls and fallbacks since then."""

    def __init__(self, backend: str) -> None:
        """Note the calls so far; the `backend` ``default`` is the best one of the device."""
        self._backend = backend
        self._fallbacks_before = ops.fallbacks()
        self._calls_before = self._calls_at_first = ops.calls()

    def __call__(self) -> AbstractContextManager[None]:
        """Return the context of the choice."""
        return nullcontext() if self._backend == DEFAULT_BACKEND else ops.use_backend(self._backend)

    def implementations(self) -> dict[str, str]:
        """See `workloads.workload.Program`."""
        now = ops.calls()
        new, self._calls_before = now - self._calls_before, now
        backends: dict[str, str] = {}
        for operator, backend in sorted(new):
            earlier = f"{backends[operator]}, " if operator in backends else ""
            backends[operator] = earlier + backend
        return backends

    def notes(self) -> dict[str, Any]:
        """See `workloads.workload.Program`.

        They are operators that fell back, with the reason; tuned kernels; operators that are not
        deterministic.
        """
        new = ops.fallbacks() - self._fallbacks_before
        fallen = [fallback._asdict() | {"calls": calls} for fallback, calls in sorted(new.items())]
        tuned = sorted({key.kernel for key in tuning.used()})
        loose = sorted(
            f"{operator} on {backend}"
            for operator, backend in ops.calls() - self._calls_at_first
            if not ops.is_deterministic(operator, backend)
        )
        return (
            {"fallbacks": fallen}
            | ({"tuned_kernels": tuned} if tuned else {})
            | ({"not_deterministic": loose} if loose else {})
        )
