"""Parameter initialization from keyed streams: the same weights on any device, in any order.

A module lists its initializers by parameter name in `initializers`, and `initialize` applies those
of all modules. Construction allocates parameters without initializing them, so that meta and fake
models are cheap.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from refsys.streams import Draw

Initializer = Callable[[Tensor, Draw], Tensor]


def _truncated_normal(weight: Tensor, draw: Draw, scale: float) -> Tensor:
    """Return normals of variance scale / fan_in, truncated at two standard deviations."""
    bound = math.erf(math.sqrt(2.0))
    uniform = draw.uniform_on(weight.device, weight.numel()).to(torch.float64) + 2.0**-25
    normal = math.sqrt(2.0) * torch.erfinv((2.0 * uniform - 1.0) * bound)
    # 0.8796 is the standard deviation of a unit normal truncated at ±2.
    deviation = math.sqrt(scale / weight.shape[-1]) / 0.87962566103423978
    return (normal * deviation).reshape(weight.shape)


def lecun(weight: Tensor, draw: Draw) -> Tensor:
    """Return a truncated normal of variance 1 / fan_in, the default."""
    return _truncated_normal(weight, draw, 1.0)


def he(weight: Tensor, draw: Draw) -> Tensor:
    """Return a truncated normal of variance 2 / fan_in, for layers before a ReLU or a swish."""
    return _truncated_normal(weight, draw, 2.0)


def zeros(weight: Tensor, draw: Draw) -> Tensor:
    """Return zeros, for the last linear of residual updates, gates, output heads and offsets."""
    del draw
    return torch.zeros_like(weight)


def ones(weight: Tensor, draw: Draw) -> Tensor:
    """Return ones, for LayerNorm scales."""
    del draw
    return torch.ones_like(weight)


def constant(value: float) -> Initializer:
    """Return an initializer to one value, such as −2 for gates that are nearly closed at first."""

    def initializer(weight: Tensor, draw: Draw) -> Tensor:
        del draw
        return torch.full_like(weight, value)

    return initializer


def stacked(*parts: tuple[int, Initializer]) -> Initializer:
    """Return an initializer for consecutive groups of rows, given as (rows, initializer)."""

    def initializer(weight: Tensor, draw: Draw) -> Tensor:
        groups = weight.split([rows for rows, _ in parts])
        initialized = [
            part(group, Draw(draw.seed, f"{draw.stream}/{number}"))
            for number, ((_, part), group) in enumerate(zip(parts, groups, strict=True))
        ]
        return torch.cat([group.to(weight.dtype) for group in initialized])

    return initializer


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Initialize every parameter of `model` from the stream named by its path."""
    for path, module in model.named_modules():
        initializers: dict[str, Initializer] = getattr(module, "initializers", {})
        for name, initializer in initializers.items():
            parameter = module.get_parameter(name)
            stream = f"initialization/{path}.{name}"
            parameter.copy_(initializer(parameter, Draw(seed, stream)))
