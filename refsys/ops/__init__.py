"""The operators that AlphaFold 3 is written in, one folder each.

A folder's ``__init__`` holds the public function with its contract; ``reference`` is plain PyTorch
that runs in float64 and is the specification. ``backend`` is the one mechanism that chooses between
implementations, ``workspace`` the one way to ask for scratch memory. Operators take tensors and
know nothing of modules, layouts' communication or training.
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
