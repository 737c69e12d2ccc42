"""Operators of AlphaFold 3, one folder each.

A folder's ``__init__`` holds the public function with its contract; ``reference`` is plain PyTorch
that runs in float64 and is the specification, and defines the named tuple of the operator's
weights. ``backend`` chooses between implementations, ``scope`` holds the ambient settings,
``workspace`` allocates scratch memory. Operators take tensors and do not depend on modules,
collectives or training.
"""

from refsys.ops.backend import (
    OPERATORS,
    Implementation,
    Operator,
    calls,
    fallbacks,
    is_deterministic,
    use_backend,
)

__all__ = [
    "OPERATORS",
    "Implementation",
    "Operator",
    "calls",
    "fallbacks",
    "is_deterministic",
    "use_backend",
]
