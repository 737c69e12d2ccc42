"""Calls of the project's operators on fake tensors, remembered by the metadata of their arguments.

The fake implementation of such an operator takes one to several milliseconds: it looks up launch
options and reports every kernel and scratch buffer. A second call with equal metadata repeats the
reports of the first one.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from refsys.costs.output_cache import Outputs, allocated, call_key, metadata_of
from refsys.ops.scope import current
from refsys.ops.workspace import Scratch

NAMESPACE = "foldperf"


class Reports(NamedTuple):
    """Reports of an operator during a call.

    Attributes:
        kernels: Kernel of each launch.
        scratch: Scratch buffers.
    """

    kernels: tuple[str, ...]
    scratch: tuple[Scratch, ...]


class ProjectOperators:
    """Operators of the project within one trace, whose ambient settings do not change."""

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[Outputs, Reports] | None] = {}

    def call(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        reported: Callable[[], Reports],
        repeat: Callable[[Reports], None],
    ) -> Any:
        """Return what an operator returns.

        Args:
            func: Operator.
            args: Its arguments.
            kwargs: Its named arguments.
            reported: Returns the reports of a call that has ended.
            repeat: Called with the reports of a call that is not made.
        """
        tensor = next((a for a in tree_leaves(args) if isinstance(a, FakeTensor)), None)
        key = None if tensor is None or _is_watched() else call_key(func, args, kwargs)
        if tensor is None or key is None:
            return func(*args, **kwargs)
        if key not in self._known:
            out = func(*args, **kwargs)
            outputs = metadata_of(out, args)
            self._known[key] = None if outputs is None else (outputs, reported())
            return out
        known = self._known[key]
        if known is None:
            return func(*args, **kwargs)
        outputs, reports = known
        repeat(reports)
        return allocated(outputs, tensor.fake_mode)


def _is_watched() -> bool:
    """Return whether others than the tracer receive the reports, and may need the arguments."""
    settings = current()
    callbacks = (settings.launch_callbacks, settings.scratch_callbacks)
    return any(len(receivers) > 1 for receivers in callbacks) or bool(settings.tuning_callbacks)
