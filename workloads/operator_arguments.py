"""Arguments of each operator in AlphaFold 3, as shapes, at a model size and a crop.

Shape suffixes: B batch, N tokens, C pair width, H heads, D head width, S MSA rows, M MSA width, U
outer-product width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch

from refsys.config import ModelConfig
from refsys.precision import Precision

# Atoms of a token, and how much wider the hidden layer of a conditioned transition is.
_ATOMS, _CONDITIONED_FACTOR = 8, 2


class Argument(NamedTuple):
    """One tensor.

    Attributes:
        kind: An activation, a weight, positions or a mask; the precision table has its dtype.
        shape: Its shape.
        scale: Factor of the standard normal distribution of its values.
    """

    kind: Literal["activation", "weight", "position", "mask"]
    shape: tuple[int, ...]
    scale: float = 1.0

    def dtype(self, table: Precision) -> torch.dtype:
        """Return its dtype in a precision table."""
        return {
            "activation": table.activations,
            "weight": table.parameters,
            "position": table.coordinates,
            "mask": torch.bool,
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments and options of a call of an operator.

    Attributes:
        arguments: Its tensors, in order.
        options: Its other arguments.
    """

    arguments: tuple[Argument, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def _activation(*shape: int) -> Argument:
    return Argument("activation", shape)


def _weight(*shape: int) -> Argument:
    return Argument("weight", shape)


def _mask(*shape: int) -> Argument:
    return Argument("mask", shape)


def _layer_norm(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C = model.c_z
    return Call(
        (_activation(B, N, N, C), _weight(C), _weight(C)),
        {"statistics": table.norm_statistics, "epsilon": 1e-5},
    )


def _dropout_residual(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    del table
    C = model.c_z
    return Call(
        (_activation(B, N, N, C), _activation(B, N, N, C), _mask(B, N, C)),
        {"rate": model.pair_dropout, "shared_axis": -3},
    )


def _triangle_attention(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    H = model.pair_heads
    activation = _activation(B, N, N, H, model.c_z // H)
    return Call(
        (activation, activation, activation, _activation(B, H, N, N), _mask(B, N, N)),
        {"softmax": table.softmax},
    )


def _projection(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C = model.c_z
    return Call(
        (_activation(B, N, N, C), _mask(B, N, N), _weight(C), _weight(C), _weight(5 * C, C)),
        {"statistics": table.norm_statistics},
    )


def _contraction(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    del table
    activation = _activation(B, N, N, model.c_z)
    return Call((activation, activation), {"outgoing": True})


def _epilogue(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C = model.c_z
    activation = _activation(B, N, N, C)
    return Call(
        (activation, activation, _weight(C), _weight(C), _weight(C, C), activation, _mask(B, N, C)),
        {"rate": model.pair_dropout, "statistics": table.norm_statistics},
    )


def _layer_norm_linear(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C = model.c_s
    return Call(
        (_activation(B, 1, N, C), _weight(C), _weight(C), _weight(4 * C, C), _weight(C)),
        {"statistics": table.norm_statistics},
    )


def _pair_bias(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C = model.c_z
    return Call(
        (_activation(B, N, N, C), _weight(C), _weight(C), _weight(model.single_heads, C)),
        {"statistics": table.norm_statistics},
    )


def _attention_projection(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C, H = model.c_z, model.pair_heads
    return Call(
        (_activation(B, N, N, C), _weight(C), _weight(C), _weight(4 * C, C), _weight(H, C)),
        {"statistics": table.norm_statistics},
    )


def _gated_linear(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    del table
    C = model.c_z
    activation = _activation(B, N, N, C)
    return Call(
        (activation, activation, _weight(C, C), activation, _mask(B, N, C)),
        {"rate": model.pair_dropout},
    )


def _gated_triangle_attention(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C = model.c_z
    weights = _weight(C), _weight(C), _weight(4 * C, C), _weight(model.pair_heads, C)
    return Call(
        (_activation(B, N, N, C), _mask(B, N, N), *weights, _weight(C, C), _mask(B, N, C)),
        {
            "rate": model.pair_dropout,
            "softmax": table.softmax,
            "statistics": table.norm_statistics,
        },
    )


def _attention_pair_bias(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C, S = model.c_z, model.c_s
    weights = _weight(S), _weight(S), _weight(4 * S, S), _weight(S)
    pair = _weight(C), _weight(C), _weight(model.single_heads, C)
    return Call(
        (
            *(_activation(B, N, S), _activation(B, N, N, C), _mask(B, N)),
            *(*weights, *pair, _weight(S, S)),
        ),
        {"softmax": table.softmax, "statistics": table.norm_statistics},
    )


def _transition(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C, wide = model.c_z, model.transition_factor * model.c_z
    return Call(
        (_activation(B, N, N, C), _weight(C), _weight(C), _weight(2 * wide, C), _weight(C, wide)),
        {"statistics": table.norm_statistics},
    )


def _single_transition(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C, wide = model.c_s, model.transition_factor * model.c_s
    return Call(
        (_activation(B, N, C), _weight(C), _weight(C), _weight(2 * wide, C), _weight(C, wide)),
        {"statistics": table.norm_statistics},
    )


def _adaptive_layer_norm(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    activation = _activation(B, model.samples, N, model.c_token)
    return Call((activation, activation, activation), {"statistics": table.norm_statistics})


def _conditioned_transition(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C, wide = model.c_token, _CONDITIONED_FACTOR * model.c_token
    activation = _activation(B, model.samples, N, C)
    return Call(
        (activation, activation, activation, activation, _weight(2 * wide, C), _weight(C, wide)),
        {"statistics": table.norm_statistics},
    )


def _atom_layer_norm(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    """Return a call with one condition for all samples."""
    C, A = model.c_atom, _ATOMS * N
    shared = _activation(B, 1, A, C)
    return Call(
        (_activation(B, model.samples, A, C), shared, shared),
        {"statistics": table.norm_statistics},
    )


def _atom_transition(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    C, A, wide = model.c_atom, _ATOMS * N, _CONDITIONED_FACTOR * model.c_atom
    shared = _activation(B, 1, A, C)
    return Call(
        (
            *(_activation(B, model.samples, A, C), shared, shared, shared),
            *(_weight(2 * wide, C), _weight(C, wide)),
        ),
        {"statistics": table.norm_statistics},
    )


def _smooth_lddt(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    """Return a call with coordinates that spread like those of a globular protein."""
    del table
    D, A = model.samples, _ATOMS * N
    spread = A ** (1 / 3)
    positions = Argument("position", (B, D, A, 3), spread)
    label, radius = Argument("position", (B, A, 3), spread), Argument("position", (B, A), 15.0)
    return Call((positions, label, _mask(B, A), radius), {"block": 1024})


def _outer_product_mean(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    S, U, C = model.alignment_rows, model.outer_product_width, model.c_z
    activation, mask = _activation(B, S, N, U), _mask(B, S, N)
    return Call(
        (activation, activation, mask, mask, _weight(C, U * U), _weight(C)),
        {"accumulation": table.accumulation},
    )


def _pair_weighted_averaging(model: ModelConfig, table: Precision, B: int, N: int) -> Call:
    H, S = model.pair_weighted_heads, model.alignment_rows
    v = _activation(B, S, N, H, model.c_m // H)
    return Call((v, _activation(B, N, N, H), _mask(B, N)), {"softmax": table.softmax})


# By operator: its call for a model, a precision table, a batch and a number of tokens.
CALLS: dict[str, Callable[[ModelConfig, Precision, int, int], Call]] = {
    "layer_norm": _layer_norm,
    "dropout_residual": _dropout_residual,
    "triangle_attention": _triangle_attention,
    "triangle_multiplication_projection": _projection,
    "triangle_multiplication_contraction": _contraction,
    "triangle_multiplication_epilogue": _epilogue,
    "transition": _transition,
    "adaptive_layer_norm": _adaptive_layer_norm,
    "conditioned_transition": _conditioned_transition,
    "smooth_lddt": _smooth_lddt,
    "layer_norm_linear": _layer_norm_linear,
    "pair_bias": _pair_bias,
    "attention_projection": _attention_projection,
    "gated_linear": _gated_linear,
    "gated_triangle_attention": _gated_triangle_attention,
    "attention_pair_bias": _attention_pair_bias,
    "outer_product_mean": _outer_product_mean,
    "pair_weighted_averaging": _pair_weighted_averaging,
}

# The calls of other tracks, the single representation's or the atoms', where they differ.
OTHER_CALLS: dict[str, Callable[[ModelConfig, Precision, int, int], Call]] = {
    "transition": _single_transition,
    "adaptive_layer_norm": _atom_layer_norm,
    "conditioned_transition": _atom_transition,
}
