"""Blocks of the stacks of a model."""

from typing import ClassVar

from torch import nn


class Block(nn.Module):
    """Block of a stack: the unit in which parameters are gathered if ranks share them.

    Attributes:
        entries: Methods beside `forward` that read parameters.
        repeated: Whether a step runs the block many times, so that its parameters stay gathered
            from its first run to its backward pass.
    """

    entries: ClassVar[tuple[str, ...]] = ()
    repeated: ClassVar[bool] = False
