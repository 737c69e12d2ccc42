"""Data parallelism: ranks compute different examples, and gradients are averaged.

`DistributedDataParallel` is not used because it wraps the forward pass of one module, while a step
of AlphaFold 3 enters its model several times (trunk, rollout, confidence head, denoising) in phases
that are timed one by one. A test compares the gradients of both.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from refsys.ops.rounds import multiplied
from refsys.parallel.collectives import Flight, all_reduce_begin

# The bucket size of torch's DistributedDataParallel: large enough to fill a link.
BUCKET_BYTES = 25 * 2**20


@dataclass(slots=True)
class Bucket:
    """Parameters whose gradients are sent together.

    Attributes:
        parameters: In the order of their gradients in the message.
        missing: Gradients that are not computed yet in this step.
        sent: Whether it is sent in this step.
        copies: Called with the message; returns copies of it, each of which stands for the message
            of another bucket, in traces that leave out blocks.
    """

    parameters: list[nn.Parameter]
    missing: int = 0
    sent: bool = False
    copies: Callable[[Tensor], list[Tensor]] | None = None


class _Message(NamedTuple):
    """A bucket being averaged, and copies that stand for buckets of blocks left out."""

    flight: Flight
    flat: Tensor
    gradients: list[Tensor]
    copies: list[Tensor]


def stacked_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the members of every list of modules in a model."""
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return [block for modules in lists for block in modules]


class GradientAverage:
    """Averaging of gradients over the ranks, bucket by bucket, overlapped with the backward pass.

    Parameters are assigned to buckets in reverse order, which is roughly the order in which their
    gradients are computed. A bucket is sent once all its gradients are computed and all earlier
    buckets are sent, so that every rank sends them in the same order. `wait` sends the remaining
    buckets (those with a parameter that received no gradient) and writes the averages back.

    A large block of a stack has buckets of its own, so that equal blocks send equal messages.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        group: dist.ProcessGroup | None = None,
        bucket_bytes: int = BUCKET_BYTES,
        *,
        context_ranks: int = 1,
        blocks: Iterable[nn.Module] = (),
    ) -> None:
        """Register a gradient hook on each parameter.

        Args:
            parameters: Trained parameters, in the same order on every rank.
            group: Ranks that take part; all if None. Its process group must exist.
            bucket_bytes: Size in bytes at which a bucket is full.
            context_ranks: Ranks that share an example; their gradients are parts of its gradient,
                and are added.
            blocks: Blocks of stacks. Those of at least a quarter of a bucket share none with
                other parameters.
        """
        self._group = group
        self._examples = dist.get_world_size(group) // context_ranks
        self._buckets = _buckets(parameters, bucket_bytes, blocks)
        self._bucket_of = {
            parameter: number
            for number, bucket in enumerate(self._buckets)
            for parameter in bucket.parameters
        }
        self._in_flight: list[_Message] = []
        self._callbacks: list[Callable[[Tensor], None]] = []
        self._next = 0
        self._reset()
        for parameter in self._bucket_of:
            parameter.register_post_accumulate_grad_hook(self._on_gradient)

    def wait(self) -> None:
        """Complete the averages of a step: every gradient becomes its mean over the ranks."""
        while self._next < len(self._buckets):
            self._send(self._buckets[self._next])
        for flight, flat, gradients, copies in self._in_flight:
            with multiplied(1 + len(copies)):
                flight.wait()
                parts = flat.split([gradient.numel() for gradient in gradients])
                torch._foreach_copy_(
                    gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
                )
        self._reset()

    def buckets_of(self, parameters: Iterable[nn.Parameter]) -> list[Bucket] | None:
        """Return the buckets of some parameters; None if other parameters share one of them."""
        listed = set(parameters)
        numbers = sorted({self._bucket_of[p] for p in listed if p in self._bucket_of})
        buckets = [self._buckets[number] for number in numbers]
        unshared = all(listed.issuperset(bucket.parameters) for bucket in buckets)
        return buckets if unshared else None

    def watch(self, on_gradient: Callable[[Tensor], None]) -> None:
        """Call a function with each parameter whose gradient is computed, until `wait` is done."""
        self._callbacks.append(on_gradient)

    def _reset(self) -> None:
        self._in_flight.clear()
        self._callbacks.clear()
        self._next = 0
        for bucket in self._buckets:
            bucket.missing, bucket.sent, bucket.copies = len(bucket.parameters), False, None

    def _on_gradient(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        for callback in self._callbacks:
            callback(parameter)
        number = self._bucket_of[parameter]
        self._buckets[number].missing -= 1
        if number < self._next:
            raise RuntimeError(
                "a gradient was computed after its bucket was sent: call wait() every step"
            )
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._send(self._buckets[self._next])

    def _send(self, bucket: Bucket) -> None:
        self._next += 1
        bucket.sent = True
        gradients = [p.grad for p in bucket.parameters if p.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(self._examples)
        flight = all_reduce_begin(flat, self._group)
        copies = [] if bucket.copies is None else bucket.copies(flat)
        self._in_flight.append(_Message(flight, flat, gradients, copies))


def _buckets(
    parameters: Iterable[nn.Parameter], bucket_bytes: int, blocks: Iterable[nn.Module]
) -> list[Bucket]:
    """Return buckets of parameters in reverse order; a bucket has one dtype and device."""
    block_of: dict[nn.Parameter, int] = {}
    for number, block in enumerate(blocks):
        parameters_of_block = list(block.parameters())
        if _nbytes(parameters_of_block) >= bucket_bytes / 4:
            # A list inside of another one comes later.
            block_of |= dict.fromkeys(parameters_of_block, number)
    full: list[Bucket] = []
    filling: defaultdict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = defaultdict(list)
    current = None
    for parameter in reversed(list(parameters)):
        if block_of.get(parameter) != current:
            current = block_of.get(parameter)
            full += map(Bucket, filling.values())
            filling.clear()
        key = parameter.dtype, parameter.device
        filling[key].append(parameter)
        if _nbytes(filling[key]) >= bucket_bytes:
            full.append(Bucket(filling.pop(key)))
    return full + [Bucket(partial) for partial in filling.values()]


def _nbytes(parameters: Sequence[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
