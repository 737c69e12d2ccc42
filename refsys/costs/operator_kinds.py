"""Kinds of operators, by which thousands of calls are summarized."""

import functools
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

# Kind -> operators of torch, without namespace and overload. An operator that is not listed is
# elementwise if torch tags it as pointwise, else other.
_OPERATORS: dict[str, str] = {
    "linear": "mm addmm convolution convolution_backward mkldnn_linear",
    "batched_matmul": "bmm baddbmm",
    "attention": """
        _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_flash_attention_for_cpu_backward
        _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_backward
        _scaled_dot_product_efficient_attention _scaled_dot_product_efficient_attention_backward
        _scaled_dot_product_cudnn_attention _scaled_dot_product_cudnn_attention_backward
        flex_attention flex_attention_backward""",
    "normalization": """
        native_layer_norm native_layer_norm_backward _fused_rms_norm _fused_rms_norm_backward
        native_batch_norm native_batch_norm_backward native_group_norm
        native_group_norm_backward""",
    "softmax": "_softmax _softmax_backward_data _log_softmax _log_softmax_backward_data logsumexp",
    "activation": """
        silu silu_backward gelu gelu_backward sigmoid sigmoid_backward tanh tanh_backward relu
        threshold_backward leaky_relu leaky_relu_backward elu elu_backward softplus
        softplus_backward""",
    "reduction": """
        sum mean amax amin max min any all argmax argmin prod norm linalg_vector_norm var var_mean
        cumsum sort topk nll_loss_forward nll_loss_backward nll_loss2d_forward nll_loss2d_backward
        _cdist_forward""",
    "copy": """
        clone copy_ _to_copy cat stack constant_pad_nd slice_backward select_backward
        unfold_backward roll flip repeat _unsafe_view _local_scalar_dense""",
    "indexing": """
        gather scatter scatter_ scatter_add scatter_add_ index index_put index_put_ _index_put_impl_
        index_select index_add index_add_ embedding embedding_dense_backward bucketize nonzero
        masked_select searchsorted""",
    "random": """
        native_dropout native_dropout_backward bernoulli bernoulli_ normal_ uniform_ rand randn
        randint randperm random_""",
    "elementwise": "linalg_cross masked_fill",
    "creation": """
        arange linspace full full_like zeros zeros_like ones ones_like empty empty_like
        empty_strided new_empty new_empty_strided new_full new_ones new_zeros scalar_tensor eye
        fill_ zero_ lift_fresh""",
}
_KIND = {name: kind for kind, names in _OPERATORS.items() for name in names.split()}
_COMMUNICATION = frozenset({"c10d", "_c10d_functional"})
_NAMED = ("attention", "softmax", "activation")

# Kinds that do a model's work, by which the profiler and the dispatch mode are compared.
COMPUTE_KINDS = frozenset(
    {"linear", "batched_matmul", "attention", "normalization", "softmax", "activation"}
)
# Kinds whose operators must have a FLOP formula.
MULTIPLYING_KINDS = frozenset({"linear", "batched_matmul", "attention"})


@functools.cache
def operator_kind(operator: str) -> str:
    """Return the kind of an operator such as ``aten.mm.default``; the overload may be left out."""
    namespace, _, overload = operator.partition(".")
    name = overload.partition(".")[0]
    if namespace in _COMMUNICATION:
        return "communication"
    if namespace != "aten":
        # Operators of other libraries are classified by their names.
        return next((kind for kind in _NAMED if kind in name), "other")
    if name.startswith(("_foreach_", "_fused_adam", "_fused_sgd")):
        return "optimizer"
    # An operator in place is of the kind of the one out of place.
    known = _KIND.get(name) or _KIND.get(name.removesuffix("_"))
    return known or ("elementwise" if _is_pointwise(operator) else "other")


def by_operator_kind(calls: Mapping[str, int]) -> Counter[str]:
    """Return calls by kind of operator."""
    kinds: Counter[str] = Counter()
    for operator, count in calls.items():
        kinds[operator_kind(operator)] += count
    return kinds


def _is_pointwise(operator: str) -> bool:
    """Return whether torch tags the operator, or an overload of it, as pointwise."""
    entry: Any = torch.ops
    for part in operator.split("."):
        entry = getattr(entry, part, None)
        if entry is None:
            return False
    overloads = (
        [getattr(entry, name) for name in entry.overloads()]
        if isinstance(entry, torch._ops.OpOverloadPacket)
        else [entry]
    )
    return any(torch.Tag.pointwise in getattr(overload, "tags", ()) for overload in overloads)
