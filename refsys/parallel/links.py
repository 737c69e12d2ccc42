"""Speeds of the links between ranks: stated, or measured by ``foldperf check-device``.

A message of n bytes takes latency + n / bandwidth, and a rank sends one message after the other, so
that an exchange takes the sum over its messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refsys.costs.devices import named_link
from refsys.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Links:
    """Links of a rank to the others.

    Attributes:
        intra_bytes_s: Bytes per second that a rank sends to the ranks of its node.
        intra_latency_s: Seconds of a message of no bytes to them.
        inter_bytes_s: Bytes per second that a rank sends to other nodes.
        inter_latency_s: Seconds of a message of no bytes to them.
    """

    intra_bytes_s: float
    intra_latency_s: float
    inter_bytes_s: float
    inter_latency_s: float

    def __post_init__(self) -> None:
        for name in ("intra_bytes_s", "inter_bytes_s"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name}={getattr(self, name)} is not a bandwidth; state > 0")
        for name in ("intra_latency_s", "inter_latency_s"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"{name}={getattr(self, name)} is not a latency; state >= 0")

    @classmethod
    def listed(cls, inside: str, across: str) -> "Links":
        """Return links of the table of devices by name, such as ``nvlink-4``.

        Raises:
            ArgumentError: none has that name.
        """
        within, between = named_link(inside), named_link(across)
        return cls(within.bytes_s, within.latency_s, between.bytes_s, between.latency_s)

    @classmethod
    def measured(
        cls,
        intra: Sequence[Mapping[str, Any]],
        intra_ranks: int,
        inter: Sequence[Mapping[str, Any]] = (),
        inter_ranks: int = 2,
    ) -> "Links":
        """Return links by the collectives that ``foldperf check-device`` measured.

        Args:
            intra: Measurements of ranks of one node: ``operation``, ``bytes`` and ``seconds``.
            intra_ranks: Number of those ranks.
            inter: Measurements of ranks of which each is on a node of its own; the links are taken
                to be those inside a node if there are none.
            inter_ranks: Number of those ranks.

        Raises:
            ArgumentError: there is no measurement of an all-to-all, or of no other rank.
        """
        inside = _line(intra, intra_ranks)
        across = _line(inter, inter_ranks) if inter else inside
        return cls(*inside, *across)


def _line(measurements: Sequence[Mapping[str, Any]], ranks: int) -> tuple[float, float]:
    """Return bandwidth and latency of a message, by least squares of the relative errors.

    Of the measurements of all-to-alls, seconds = messages × latency + bytes / bandwidth.
    """
    if ranks < 2:
        raise ArgumentError(f"{ranks} ranks have no link; measure collectives of two at least")
    points = [
        (m["bytes"] * (ranks - 1) / ranks, float(m["seconds"]))
        for m in measurements
        if m["operation"] == "all_to_all"
    ]
    if not points:
        raise ArgumentError(
            "no all-to-all was measured; run 'foldperf check-device' on two devices"
        )
    if len({nbytes for nbytes, _ in points}) > 1:
        # Weighted by 1 / seconds², so that small messages count as much as large ones.
        weights = [seconds**-2 for _, seconds in points]
        total = sum(weights)
        x = sum(w * nbytes for w, (nbytes, _) in zip(weights, points, strict=True)) / total
        y = sum(w * seconds for w, (_, seconds) in zip(weights, points, strict=True)) / total
        pairs = list(zip(weights, points, strict=True))
        slope = sum(w * (nbytes - x) * (s - y) for w, (nbytes, s) in pairs) / sum(
            w * (nbytes - x) ** 2 for w, (nbytes, _) in pairs
        )
        if slope > 0 and y - slope * x >= 0:
            return 1 / slope, (y - slope * x) / (ranks - 1)
    # One size, or times that do not grow with it: all of the time is the bytes'.
    return max(nbytes / seconds for nbytes, seconds in points), 0.0


NVLINK = Links.listed("nvlink-4", "infiniband-ndr")
PCIE = Links.listed("pcie-4", "infiniband-hdr")
