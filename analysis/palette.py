"""Fills of phases, memory states, operator kinds and modules; line styles of systems and methods.

Each phase, state, kind and large part of AlphaFold 3 has a colour and hatch of its own in all
figures of the report and the paper, which no other of them has. Names that are not registered here,
as the paths of modules, take fills of a reserve in the order of their figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from analysis.methods import MEASURED, PREDICTED, TRACED

Role = Literal["phase", "state", "kind", "module"]

# Memory that outlives a step, then memory that a step allocates; bottom of a stack first.
STATES = (
    *("parameters", "optimizer", "gradients", "constants", "inputs"),
    *("activations", "recomputed", "temporaries", "workspace", "offloaded", "unattributed"),
)
# Phases of a training step, of inference, and stages of the host's pipeline.
PHASES = (
    *("data", "permutation", "forward", "trunk", "rollout", "diffusion", "recompute"),
    *("backward", "all_reduce", "optimizer", "conditioning", "sampling", "confidence"),
    *("evict", "open", "load", "crop", "tokens", "tokenize", "atoms", "alignment", "templates"),
    *("parse_structure", "parse_alignment", "pad", "features", "stack", "to_device"),
    *("wait", "device"),
)
# Kinds of operators by which calls and predicted times are summarized.
KINDS = (
    *("linear", "batched_matmul", "attention", "normalization", "softmax", "activation"),
    *("elementwise", "copy", "indexing", "reduction", "random", "creation", "optimizer"),
    *("communication", "other", "host", "triangle_attention", "triangle_multiplication"),
    *("transition", "conditioned_transition", "gated_attention", "gated_linear"),
    *("adaptive_layer_norm", "layer_norm_linear", "outer_product_mean", "smooth_lddt"),
    *("pair_weighted_averaging", "dropout_residual"),
)
# Parts of AlphaFold 3, and what ranks exchange for them, in figures of several systems. The order
# gives those that one figure shows hatches of their own.
MODULES = (
    *("MSA products", "transition", "single attention", "triangle attention"),
    *("triangle multiplication", "outer product mean", "diffusion transformer", "other"),
    *("parameters", "pair weighted averaging", "attention pair bias", "atom attention"),
)
_ROLES: dict[Role, tuple[str, ...]] = {
    "state": STATES,
    "phase": PHASES,
    "kind": KINDS,
    "module": MODULES,
}

# Light and dark colours alternate, so that neighbours in a stack differ in grey as well.
_COLOURS = (
    *("#D5E8F5", "#0072B2", "#F7DFA8", "#D55E00", "#A6DCC8", "#CC79A7", "#FFFFFF", "#555555"),
    *("#F3C6DC", "#009E73", "#F0E442", "#9C6B30", "#BFBFBF", "#56B4E9", "#E69F00", "#7B4FA3"),
)
_HATCHES = ("", "////", "....", "\\\\\\\\", "||||", "xxxx", "----", "oo", "++++")


@dataclass(frozen=True, slots=True)
class Fill:
    """Face colour and hatch of a part of a stack."""

    colour: str
    hatch: str


@dataclass(frozen=True, slots=True)
class LineStyle:
    """Colour, marker and dashes of a series."""

    colour: str
    marker: str
    dashes: Any


def _numbered(number: int) -> Fill:
    """Return the fill of a number; those of fewer than 144 numbers differ."""
    row, column = divmod(number, len(_COLOURS))
    return Fill(_COLOURS[column], _HATCHES[(row + column) % len(_HATCHES)])


_REGISTERED: dict[tuple[Role, str], Fill] = {
    key: _numbered(number)
    for number, key in enumerate((role, name) for role, names in _ROLES.items() for name in names)
}
_RESERVE = [_numbered(number) for number in range(len(_REGISTERED), len(_COLOURS) * len(_HATCHES))]
MAX_UNREGISTERED = len(_RESERVE)


def fills(role: Role, names: Sequence[str]) -> dict[str, Fill]:
    """Return the fill of each name; names that are not registered take those of the reserve."""
    unregistered = [name for name in names if (role, name) not in _REGISTERED]
    reserve = dict(zip(unregistered, _RESERVE, strict=False))
    # With more names than the reserve has the last of them repeats.
    return {
        name: _REGISTERED.get((role, name)) or reserve.get(name, _RESERVE[-1]) for name in names
    }


def registered(role: Role) -> dict[str, Fill]:
    """Return the fills of all registered names of a role."""
    return {name: fill for (of, name), fill in _REGISTERED.items() if of == role}


# Systems of the paper's figures; a colour and marker each.
AF3_REFERENCE, AF3_COMPILED, AF3_FUSED = "AF3, reference", "AF3, compiled bound", "AF3, fused"
AF3_SHARDED, BLOOM = "AF3, sharded", "BLOOM-560M"
PUBLISHED_EAGER, PUBLISHED_INDUCTOR = "PyTorch (published)", "Inductor (published)"
PUBLISHED_DS4SCI, PUBLISHED_MEGAFOLD = "DS4Sci (published)", "MegaFold (published)"
_SYSTEMS = {
    AF3_REFERENCE: ("#0072B2", "o"),
    AF3_COMPILED: ("#56B4E9", "v"),
    AF3_FUSED: ("#D55E00", "s"),
    AF3_SHARDED: ("#009E73", "D"),
    BLOOM: ("#CC79A7", "^"),
    PUBLISHED_EAGER: ("#777777", "<"),
    PUBLISHED_INDUCTOR: ("#999999", ">"),
    PUBLISHED_DS4SCI: ("#AAAAAA", "P"),
    PUBLISHED_MEGAFOLD: ("#222222", "*"),
}
# Lines and markers tell the method: measured numbers alone have full markers on full lines.
_METHODS: dict[str, dict[str, Any]] = {
    MEASURED: {"linestyle": "-", "fillstyle": "full"},
    TRACED: {"linestyle": "-", "fillstyle": "none"},
    PREDICTED: {"linestyle": (0, (4, 1.6)), "fillstyle": "none"},
    "published": {"linestyle": (0, (1, 1.4)), "fillstyle": "full", "linewidth": 0.8},
}
SYSTEMS = tuple(_SYSTEMS)


def system_style(system: str, method: str) -> dict[str, Any]:
    """Return matplotlib's arguments for a line of a system, by the method of its numbers."""
    colour, marker = _SYSTEMS[system]
    return {"color": colour, "marker": marker, **_METHODS[method]}


def method_style(method: str) -> dict[str, Any]:
    """Return matplotlib's arguments for lines of a method."""
    return dict(_METHODS[method])
