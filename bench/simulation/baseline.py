"""Memory that a rank holds beside the tensors that a trace knows."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Baseline:
    """Memory of a rank that the tracer does not see.

    Attributes:
        nbytes: Part that does not depend on the case: context, libraries. Unit: B.
        share: Part that grows with the tensors, as fragmentation of the allocator.
        origin: How it is known.
    """

    nbytes: int
    share: float
    origin: str

    def with_tensors(self, nbytes: int) -> int:
        """Return all memory of a rank whose tensors hold `nbytes` at most. Unit: B."""
        return self.nbytes + nbytes + int(nbytes * self.share)


# Assumptions about an accelerator; no document and no record of ours states them.
_CONTEXT_BYTES, _COMMUNICATION_BYTES, _FRAGMENTATION = 2**30, 2**30, 0.05


def assumed_baseline(ranks: int) -> Baseline:
    """Return the baseline that is assumed for an accelerator: it is stated, not measured.

    Args:
        ranks: Ranks that communicate with each other.
    """
    nbytes = _CONTEXT_BYTES + _COMMUNICATION_BYTES * (ranks > 1)
    parts = "1 GiB of context and libraries"
    parts += ", 1 GiB of communication buffers" if ranks > 1 else ""
    return Baseline(nbytes, _FRAGMENTATION, f"assumed: {parts}, 5 % of fragmentation")
