"""Matrix products whose bits depend on neither the processor nor the position of a row."""

import numpy as np
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

_interpreted_dot = InterpreterBuilder.create_dot


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return `a @ b` in float64, adding the terms of every element in the order of K.

    Args:
        a: [..., M, K] of float16 or float32: the product of two such numbers is exact in float64,
            so a processor that fuses it with the addition gives the same bits.
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
    """Stand in for the interpreter's `tl.dot`, which is NumPy's product in the accumulator's dtype.

    Some BLAS kernels round a row by its position in the tile. That says nothing of our kernels: on
    an accelerator the sum within a tile is the hardware's. What a kernel decides keeps its own
    dtypes here, and shows its errors: the operands, the product, which is rounded to the
    accumulator's dtype, and every addition to the accumulator.
    """
    if not all(np.issubdtype(x.data.dtype, np.floating) for x in (a, b, accumulator)):
        return _interpreted_dot(builder, a, b, accumulator, *options)
    rounded = product(a.data, b.data).astype(accumulator.data.dtype)
    return TensorHandle(rounded + accumulator.data, accumulator.dtype.scalar)
