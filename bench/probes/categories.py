"""Kinds of operators and kernels, by which thousands of calls are summarized."""

import functools
import re
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
_NAMED_KINDS = ("attention", "softmax", "activation")

# Kinds that do a model's work, for which the profiler and the dispatch mode are compared.
COMPUTE_KINDS = frozenset(
    {"linear", "batched_matmul", "attention", "normalization", "softmax", "activation"}
)

# Patterns of kernel names; the first match decides.
_KERNELS: tuple[tuple[str, str], ...] = (
    ("copy", r"^Mem(cpy|set)|CatArrayBatchedCopy|copy_kernel|direct_copy"),
    ("communication", r"nccl|rccl"),
    ("attention", r"flash|fmha|attention|attn"),
    ("matrix_product", r"gemm|gemv|nvjet|cutlass|Cijk_|xmma|splitK|cublas"),
    ("generated", r"^triton_"),
    ("normalization", r"(layer|rms|batch|group)_?norm"),
    ("softmax", r"softmax"),
    ("optimizer", r"multi_tensor|adam|foreach"),
    ("random", r"philox|distribution|dropout|bernoulli"),
    ("activation", r"silu|gelu|sigmoid|tanh|threshold|relu"),
    ("indexing", r"index|gather|scatter|embedding"),
    ("reduction", r"reduce|Reduce|sort|scan"),
    ("elementwise", r"elementwise|vectorized|unrolled"),
)


@functools.cache
def operator_kind(operator: str) -> str:
    """Return the kind of an operator such as ``aten.mm.default``; the overload is optional."""
    namespace, _, qualified = operator.partition(".")
    name = qualified.partition(".")[0]
    if namespace in _COMMUNICATION:
        return "communication"
    if namespace != "aten":
        # Operators of other libraries are classified by name.
        return next((kind for kind in _NAMED_KINDS if kind in name), "other")
    if name.startswith(("_foreach_", "_fused_adam", "_fused_sgd")):
        return "optimizer"
    # In-place operators have the kind of their out-of-place counterparts.
    listed = _KIND.get(name) or _KIND.get(name.removesuffix("_"))
    return listed or ("elementwise" if _is_pointwise(operator) else "other")


@functools.cache
def kernel_kind(kernel: str) -> str:
    """Return the kind of a kernel by its name; ``other`` if no pattern matches."""
    for kind, pattern in _KERNELS:
        if re.search(pattern, kernel, re.IGNORECASE if kind != "copy" else 0):
            return kind
    return "other"


def by_operator_kind(calls: Mapping[str, int]) -> Counter[str]:
    """Return calls of operators by kind."""
    kinds: Counter[str] = Counter()
    for operator, count in calls.items():
        kinds[operator_kind(operator)] += count
    return kinds


def by_kernel_kind(launches: Mapping[str, int]) -> Counter[str]:
    """Return launches of kernels by kind."""
    kinds: Counter[str] = Counter()
    for kernel, count in launches.items():
        kinds[kernel_kind(kernel)] += count
    return kinds


def _is_pointwise(operator: str) -> bool:
    """Return whether torch tags the operator as pointwise."""
    attribute: Any = torch.ops
    for part in operator.split("."):
        attribute = getattr(attribute, part, None)
        if attribute is None:
            return False
    return torch.Tag.pointwise in getattr(attribute, "tags", ())
