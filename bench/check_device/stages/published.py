"""Stage ``published``: whole operators, timed as published numbers of a baseline were.

TurboPairFormer's notebook gives wall-clock means of 10 eager calls after 3 warm-up calls. A call
with backward also takes the mean of the squared output in float32, and accumulates into existing
gradients: times by graph replay are not comparable with these.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.check_device.check import Check, OutOfTimeError
from bench.devices import Device
from refsys.config import preset
from refsys.ops.triangle_attention import triangle_attention
from refsys.ops.triangle_multiplication import StageWeights, contraction, epilogue, projection

_WARM_UP, _CALLS = 3, 10
Operator = Callable[..., Tensor]


def run(check: Check) -> dict[str, Any]:
    """Return the seconds of a call by operator and passes, and by number of tokens.

    Raises:
        OutOfTimeError: there is no time for all.
    """
    check.need_accelerator("kernels")
    times: dict[str, dict[str, float]] = {}
    for tokens in check.sizes.published:
        for name, prepare in (("attention", _attention), ("multiplication", _multiplication)):
            for passes, backward in (("forward", False), ("forward and backward", True)):
                if check.remaining() <= 0:
                    raise OutOfTimeError(f"the next would be {name} at {tokens}", {"times": times})
                operator, inputs = prepare(check, tokens)
                seconds = _mean_time(operator, inputs, backward, check.device)
                title = f"triangle_{name} {passes}"
                times.setdefault(title, {})[str(tokens)] = seconds
                check.say(f"published {title} {tokens}: {1e3 * seconds:.3f} ms")
    return {"times": times}


def _mean_time(
    operator: Operator, inputs: Sequence[Tensor], backward: bool, device: Device
) -> float:
    for tensor in inputs:
        tensor.requires_grad_(backward and tensor.is_floating_point())

    def call() -> None:
        out = operator(*inputs)
        if backward:
            out.float().square().mean().backward()

    for _ in range(_WARM_UP):
        call()
    device.synchronize()
    start = time.perf_counter()
    for _ in range(_CALLS):
        call()
    device.synchronize()
    return (time.perf_counter() - start) / _CALLS


def _attention(check: Check, tokens: int) -> tuple[Operator, list[Tensor]]:
    """Return triangle attention and its inputs: q, k, v, bias, mask."""
    model, normal = preset(check.sizes.preset), _normal(check)
    heads = model.pair_heads
    shape = (1, tokens, tokens, heads, model.c_z // heads)
    mask = torch.ones(1, tokens, tokens, dtype=torch.bool, device=check.device.torch_device)
    inputs = [*(normal(*shape) for _ in range(3)), normal(1, heads, tokens, tokens), mask]
    operator = partial(triangle_attention, softmax=torch.float32, backend=check.sizes.backend)
    return operator, inputs


def _multiplication(check: Check, tokens: int) -> tuple[Operator, list[Tensor]]:
    """Return outgoing triangle multiplication and its inputs: z, mask, and the weights."""
    c, normal, backend = preset(check.sizes.preset).c_z, _normal(check), check.sizes.backend

    def multiply(z: Tensor, mask: Tensor, *weights: Tensor) -> Tensor:
        first, last = StageWeights(*weights[:3]), StageWeights(*weights[3:])
        a, b, gate = projection(z, mask, first, statistics=torch.float32, backend=backend)
        x = contraction(a, b, outgoing=True, backend=backend)
        return epilogue(x, gate, last, statistics=torch.float32, backend=backend)

    device = check.device.torch_device
    mask = torch.ones(1, tokens, tokens, dtype=torch.bool, device=device)
    weights = [normal(c), normal(c), normal(5 * c, c), normal(c), normal(c), normal(c, c)]
    # The released kernel has weights in float32.
    weights = [(weight / weight.shape[-1] ** 0.5).float() for weight in weights]
    return multiply, [normal(1, tokens, tokens, c), mask, *weights]


def _normal(check: Check) -> Callable[..., Tensor]:
    device = check.device.torch_device
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        sample = torch.randn(*shape, generator=generator, device=device)
        return sample.to(torch.bfloat16)

    return normal
