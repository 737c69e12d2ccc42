"""Properties of an operator that a tracer needs at each call, looked up once."""

import functools
from typing import Any, NamedTuple

from refsys.costs.collectives import is_collective
from refsys.costs.operator_kinds import MULTIPLYING_KINDS, operator_kind
from refsys.costs.project_operators import NAMESPACE
from refsys.costs.storages import ON_HOST
from refsys.ops.host_memory import TO_DEVICE, TO_HOST

# Bookkeeping of torch itself, which moves no data: a fake tensor calls `prim.device` on itself.
_IGNORED_NAMESPACES = frozenset({"prim", "profiler"})
# Of these, only operators that multiply matrices must have a FLOP formula.
_BUILT_IN_NAMESPACES = frozenset({"aten", "prims", "c10d", "_c10d_functional", "fsdp"})
# Not named as views, but they start nothing on a device.
_NO_KERNEL = frozenset(
    "empty empty_like empty_strided new_empty new_empty_strided _unsafe_view lift_fresh".split()
)


# States of what these operators return, in every phase.
_STATES = {TO_HOST: ON_HOST, TO_DEVICE: "activations"}


class Properties(NamedTuple):
    """Properties of an operator that do not depend on its arguments.

    Attributes:
        name: Name with its overload.
        ignored: Whether it is bookkeeping of torch.
        project: Whether it is of this project.
        built_in: Whether it is torch's own.
        launches: Kernels that a call starts, where it is torch's own.
        state: State of its outputs; None if that depends on the phase.
        collective: Whether ranks communicate by it.
        multiplies: Whether it multiplies matrices.
    """

    name: str
    ignored: bool
    project: bool
    built_in: bool
    launches: int
    state: str | None
    collective: bool
    multiplies: bool


@functools.cache
def properties(func: Any) -> Properties:
    """Return the properties of an operator's overload."""
    name = str(func)
    return Properties(
        name,
        ignored=func.namespace in _IGNORED_NAMESPACES,
        project=func.namespace == NAMESPACE,
        built_in=func.namespace in _BUILT_IN_NAMESPACES,
        launches=int(func.overloadpacket.__name__ not in _NO_KERNEL),
        state=_STATES.get(name),
        collective=is_collective(func),
        multiplies=operator_kind(name) in MULTIPLYING_KINDS,
    )
