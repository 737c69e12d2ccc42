"""Data parallelism: every rank works on examples of its own, and gradients are averaged."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from refsys.parallel.collectives import all_reduce_begin

# As large as torch's own data parallelism makes them: large enough to fill a link.
BUCKET_BYTES = 25 * 2**20


@dataclass(slots=True)
class _Bucket:
    parameters: list[nn.Parameter]
    missing: int = 0


class GradientAverage:
    """Averages gradients over the ranks, bucket by bucket, while the backward pass still runs.

    Parameters are gathered into buckets in the reverse of their order, which is about the order in
    which their gradients come. A bucket is sent when all its gradients are there and all buckets
    before it were sent, so that every rank sends them in one order. `wait` sends what is left
    (parameters that got no gradient hold theirs back) and puts the averages in place.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        group: dist.ProcessGroup | None = None,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        """Watches the gradients of parameters.

        Args:
            parameters: Those that are trained, in the same order on every rank.
            group: The ranks; all if None. Its process group must exist.
            bucket_bytes: Size from which a bucket is full.
        """
        self._group = group
        self._ranks = dist.get_world_size(group)
        self._buckets = _buckets(parameters, bucket_bytes)
        self._place = {
            parameter: number
            for number, bucket in enumerate(self._buckets)
            for parameter in bucket.parameters
        }
        self._under_way: list[tuple[dist.Work, Tensor, list[Tensor]]] = []
        self._next = 0
        self._begin()
        for parameter in self._place:
            parameter.register_post_accumulate_grad_hook(self._arrived)

    def wait(self) -> None:
        """Finishes the step's averages: afterwards every gradient is the mean over the ranks."""
        while self._next < len(self._buckets):
            self._send(self._buckets[self._next])
        for work, flat, gradients in self._under_way:
            work.wait()
            parts = flat.split([gradient.numel() for gradient in gradients])
            torch._foreach_copy_(
                gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)]
            )
        self._begin()

    def _begin(self) -> None:
        self._under_way.clear()
        self._next = 0
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def _arrived(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        number = self._place[parameter]
        self._buckets[number].missing -= 1
        if number < self._next:
            raise RuntimeError("a gradient came after its bucket was sent: call wait() every step")
        while self._next < len(self._buckets) and not self._buckets[self._next].missing:
            self._send(self._buckets[self._next])

    def _send(self, bucket: _Bucket) -> None:
        self._next += 1
        gradients = [p.grad for p in bucket.parameters if p.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(self._ranks)
        self._under_way.append((all_reduce_begin(flat, self._group), flat, gradients))


def _buckets(parameters: Iterable[nn.Parameter], bucket_bytes: int) -> list[_Bucket]:
    """Parameters in reverse order, those of a bucket of one dtype and device."""
    full: list[_Bucket] = []
    filling: defaultdict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = defaultdict(list)
    for parameter in reversed(list(parameters)):
        kind = parameter.dtype, parameter.device
        filling[kind].append(parameter)
        if sum(p.numel() * p.element_size() for p in filling[kind]) >= bucket_bytes:
            full.append(_Bucket(filling.pop(kind)))
    return full + [_Bucket(rest) for rest in filling.values()]
