"""Kinds of kernels by name, by which thousands of launches are summed up."""

import functools
import re
from collections import Counter
from collections.abc import Mapping

# Kind, and pattern over the names of kernels; the first that matches decides.
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
def kernel_kind(kernel: str) -> str:
    """Return the kind of a kernel by its name; ``other`` where no pattern matches."""
    for kind, pattern in _KERNELS:
        if re.search(pattern, kernel, re.IGNORECASE if kind != "copy" else 0):
            return kind
    return "other"


def by_kernel_kind(launches: Mapping[str, int]) -> Counter[str]:
    """Return launches by kind of kernel."""
    kinds: Counter[str] = Counter()
    for kernel, count in launches.items():
        kinds[kernel_kind(kernel)] += count
    return kinds
