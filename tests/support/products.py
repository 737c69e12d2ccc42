"""Matrix products that are bitwise independent of the processor and of the position of a row."""

import numpy as np
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_interpreted_dot = InterpreterBuilder.create_dot


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return `a @ b` in float64, adding the terms of every element in the order of K.

    Args:
        a: [..., M, K] of float16 or float32: products of two such numbers are exact in float64, so
            a fused multiply-add gives the same bits.
        b: [..., K, N] of float16 or float32.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)
    total = np.zeros((*a.shape[:-1], b.shape[-1]))
    terms = np.empty_like(total)
    for k in range(a.shape[-1]):
        np.multiply(a[..., :, k, None], b[..., k, None, :], out=terms)
        total += terms
    return total


def create_dot(builder, a, b, accumulator, *options):
    """Replace the interpreter's `tl.dot`, which is NumPy's product in the accumulator's dtype.

    Some BLAS kernels round a row depending on its position in the tile. This is irrelevant to the
    kernels under test: on an accelerator, the hardware sums within a tile. The dtypes that a kernel
    decides are preserved, with their errors: those of the operands, of the product, which is
    rounded to the accumulator's dtype, and of every addition to the accumulator.
    """
    if not all(np.issubdtype(x.data.dtype, np.floating) for x in (a, b, accumulator)):
        return _interpreted_dot(builder, a, b, accumulator, *options)
    rounded = product(a.data, b.data).astype(accumulator.data.dtype)
    return TensorHandle(rounded + accumulator.data, accumulator.dtype.scalar)
