"""Exponentials of an operator: of softmax logits, sigmoids and the like.

Devices compute them on units of their own, which bound attention with narrow heads. Division and
square roots use the same units and are not counted.
"""

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

_POINTWISE = frozenset(
    """
    exp exp_ exp2 expm1 sigmoid sigmoid_ silu silu_ gelu tanh tanh_ softplus elu
    _softmax _log_softmax logsumexp softmax
    silu_backward gelu_backward softplus_backward elu_backward
    """.split()
)


def _logits(query: Tensor, key: Tensor) -> int:
    """Return the logits of queries [batch, head, query, c] and keys [batch, head, key, c]."""
    return prod(query.shape[:-1]) * key.shape[-2]


def _triangle(q: Tensor, k: Tensor) -> int:
    """Return the logits of queries and keys [batch, row, token, head, c]."""
    return prod(q.shape[:2]) * q.shape[2] * k.shape[2] * q.shape[3]


def _gated(x: Tensor, weight_heads: Tensor, weight: Tensor) -> int:
    """Return the logits and gates of `gated_attention` on [batch, row, token, c]."""
    positions = prod(x.shape[:-1])
    return positions * (x.shape[2] * weight_heads.shape[0] + weight.shape[0] // 4)


def _hidden(x: Tensor, weight_in: Tensor) -> int:
    """Return the gates of a SwiGLU, whose first matrix is [2 · hidden, c]."""
    return prod(x.shape[:-1]) * weight_in.shape[0] // 2


# Formulas of operators whose exponentials are not the elements of their output, of the arguments.
_FORMULAS: dict[str, Callable[..., int]] = {
    "triangle_attention": lambda q, k, *_: _triangle(q, k),
    "triangle_attention_backward_tokens": lambda _grad, q, k, *_: _triangle(q, k),
    "triangle_attention_backward_bias": lambda _grad, q, k, *_: _triangle(q, k),
    "alibi_attention": lambda q, k, *_: _logits(q, k),
    "alibi_attention_backward": lambda _grad, q, k, *_: _logits(q, k),
    "gated_attention": lambda *a: _gated(a[0], a[6], a[4]),
    "gated_attention_backward": lambda *a: _gated(a[1], a[7], a[5]),
    "adaptive_layer_norm": lambda _a, scale, *_: scale.numel(),
    "adaptive_layer_norm_backward": lambda _grad, _a, scale, *_: scale.numel(),
    "gated_linear": lambda x, *_: x.numel(),
    "gated_linear_backward": lambda _grad, x, *_: x.numel(),
    "transition": lambda x, _weight, _bias, weight_in, *_: _hidden(x, weight_in),
    "transition_backward": lambda _grad, x, _weight, _bias, weight_in, *_: _hidden(x, weight_in),
    "conditioned_transition": lambda *a: _hidden(a[0], a[4]) + a[3].numel(),
    "conditioned_transition_backward": lambda *a: _hidden(a[1], a[5]) + a[4].numel(),
    "triangle_multiplication_projection": lambda z, _mask, _w, _b, weight: (
        prod(z.shape[:-1]) * (weight.shape[0] - z.shape[-1]) // 2
    ),
    "triangle_multiplication_projection_backward": lambda _a, _b, _g, z, _m, _w, _c, weight: (
        prod(z.shape[:-1]) * (weight.shape[0] - z.shape[-1]) // 2
    ),
    "triangle_multiplication_epilogue": lambda _x, gate, *_: gate.numel(),
    "triangle_multiplication_epilogue_backward": lambda _grad, _x, gate, *_: gate.numel(),
    "smooth_lddt": lambda x, _truth, _resolved, _radius, begin, end, *_: (
        4 * prod(x.shape[:-2]) * (end - begin) * x.shape[-2]
    ),
    "smooth_lddt_backward": lambda _grad, x, _t, _r, _radius, _sums, begin, end, *_: (
        4 * prod(x.shape[:-2]) * (end - begin) * x.shape[-2]
    ),
}


def operator_exponentials(func: Any, args: tuple[Any, ...], out: Any) -> int:
    """Return the exponentials of a call of an operator; 0 if it is not known to have any.

    Args:
        func: Overload of the operator.
        args: Its positional arguments.
        out: Its output.
    """
    name = func.overloadpacket.__name__
    if func.namespace == "foldperf":
        formula = _FORMULAS.get(name)
        return formula(*args) if formula else 0
    if name in _POINTWISE and isinstance(out, Tensor):
        return out.numel()
    if name.startswith("_scaled_dot_product"):
        query, key = args[1:3] if "backward" in name else args[:2]
        return _logits(query, key)
    return 0
