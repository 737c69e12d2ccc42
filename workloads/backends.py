"""Which implementations the operators of a program run on: chosen for it, and noted."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from refsys import ops
from refsys.ops import tuning
from refsys.ops.backend import BACKENDS
from workloads.workload import Axis

DEFAULT = "default"
AXIS = Axis(
    name="backend",
    default="reference",
    meaning="implementation of the operators",
    choices=(DEFAULT, *BACKENDS),
)


class Backends:
    """The choice of one program, and what came of it since it was made."""

    def __init__(self, chosen: str) -> None:
        """`chosen` is a value of `AXIS`; the default is the best for the device."""
        self._chosen = chosen
        self._fallbacks_before = ops.fallbacks()
        self._calls_before = self._calls_at_first = ops.calls()

    def __call__(self) -> AbstractContextManager[None]:
        """The choice, for the operators that run inside."""
        return nullcontext() if self._chosen == DEFAULT else ops.use_backend(self._chosen)

    def implementations(self) -> dict[str, str]:
        """See `workloads.workload.Program`."""
        now = ops.calls()
        new, self._calls_before = now - self._calls_before, now
        found: dict[str, str] = {}
        for operator, backend in sorted(new):
            found[operator] = f"{found[operator]}, {backend}" if operator in found else backend
        return found

    def notes(self) -> dict[str, Any]:
        """See `workloads.workload.Program`.

        What fell back, and why; kernels that were tuned; what gives other bits the next time.
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
