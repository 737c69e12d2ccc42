"""Data parallelism: ranks compute different examples, and gradients are averaged.

`DistributedDataParallel` is not used because it wraps the forward pass of one module, while a step
of AlphaFold 3 enters its model several times (trunk, rollout, confidence head, denoising) in phases
that are timed one by one. A test compares the gradients of both.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from refsys.parallel.collectives import Flight, all_reduce_begin

# The bucket size of torch's DistributedDataParallel: large enough to fill a link.
BUCKET_BYTES = 25 * 2**20


@dataclass(slots=True)
class _Bucket:
    parameters: list[nn.Parameter]
    missing: int = 0


class GradientAverage:
    """Averaging of gradients over the ranks, bucket by bucket, overlapped with the backward pass.

    Parameters are assigned to buckets in reverse order, which is roughly the order in which their
    gradients are computed. A bucket is sent once all its gradients are computed and all earlier
    buckets are sent, so that every rank sends them in the same order. `wait` sends the remaining
    buckets (those with a parameter that received no gradient) and writes the averages back.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        group: dist.ProcessGroup | None = None,
        bucket_bytes: int = BUCKET_BYTES,
        *,
        context_ranks: int = 1,
    ) -> None:
        """Register a gradient hook on each parameter.

        Args:
            parameters: Trained parameters, in the same order on every rank.
            group: Ranks that take part; all if None. Its process group must exist.
            bucket_bytes: Size in bytes at which a bucket is full.
            context_ranks: Ranks that share an example; their gradients are parts of its gradient,
                and are added.
        """
        self._group = group
        self._examples = dist.get_world_size(group) // context_ranks
        self._buckets = _buckets(parameters, bucket_bytes)
        self._bucket_of = {
            parameter: number
            for number, bucket in enumerate(self._buckets)
            for parameter in bucket.parameters
        }
        self._in_flight: list[tuple[Flight, Tensor, list[Tensor]]] = []
        self._next = 0
        self._reset()
        for parameter in self._bucket_of:
            parameter.register_post_accumulate_grad_hook(self._on_gradient)

    def wait(self) -> None:
        """Complete the averages of a step: every gradient becomes its mean over the ranks."""
        while self._next < len(self._buckets):
            self._send(self._buckets[self._next])
        for flight, flat, gradients in self._in_flight:
            flight.wait()
            parts = flat.split([gradient.numel() for gradient in gradients])
            torch._foreach_copy_(
                gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
            )
        self._reset()

    def _reset(self) -> None:
        self._in_flight.clear()
        self._next = 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def _on_gradient(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        number = self._bucket_of[parameter]
        self._buckets[number].missing -= 1
        if number < self._next:
            raise RuntimeError(
                "a gradient was computed after its bucket was sent: call wait() every step"
            )
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._send(self._buckets[self._next])

    def _send(self, bucket: _Bucket) -> None:
        self._next += 1
        gradients = [p.grad for p in bucket.parameters if p.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(self._examples)
        self._in_flight.append((all_reduce_begin(flat, self._group), flat, gradients))


def _buckets(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> list[_Bucket]:
    """Return buckets of parameters in reverse order; a bucket has one dtype and device."""
    full: list[_Bucket] = []
    filling: defaultdict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = defaultdict(list)
    for parameter in reversed(list(parameters)):
        key = parameter.dtype, parameter.device
        filling[key].append(parameter)
        if sum(p.numel() * p.element_size() for p in filling[key]) >= bucket_bytes:
            full.append(_Bucket(filling.pop(key)))
    return full + [_Bucket(partial) for partial in filling.values()]
