"""Fractions of a device's rates that operators achieve: assumed (``achievable.toml``) or fitted."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

from refsys.costs.operator_kinds import operator_kind

TABLE = Path(__file__).with_name("achievable.toml")

# Resources of a device, as fractions and terms of a prediction name them.
PRODUCTS, BYTES, EXPONENTIALS = RESOURCES = ("products", "bytes", "exponentials")
# Part of a prediction that is the host's, beside the kinds of operators.
HOST = "host"


@dataclass(frozen=True, kw_only=True, slots=True)
class KindFractions:
    """Fractions of the attainable rates that operators of a kind achieve.

    Attributes:
        products: Of matrix products.
        bytes: Of the memory's bandwidth.
        exponentials: Of exponentials.
        reason: Reason for the assumed fractions.
        slowdown: Measured time over the time by these fractions; 1 where nothing was measured.
        fitted: Whether `slowdown` was fitted to measurements.
    """

    products: float = 1.0
    bytes: float = 1.0
    exponentials: float = 1.0
    reason: str = ""
    slowdown: float = 1.0
    fitted: bool = False

    def of(self, resource: str) -> float:
        """Return the fraction of a resource."""
        return {PRODUCTS: self.products, BYTES: self.bytes, EXPONENTIALS: self.exponentials}[
            resource
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Error of predictions, learned from recorded pairs that the prediction did not know.

    Attributes:
        median: Median of ``|ln(predicted / measured)|``.
        p90: 90th percentile of the same.
        pairs: Number of pairs.
    """

    median: float
    p90: float
    pairs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Achievable:
    """Fractions of all kinds of operators, and costs of host, communication and power.

    ``achievable.toml`` explains the figures.

    Attributes:
        attainable: Share of the data sheet's rate that a program of one resource reaches.
        kinds: By kind of operator, or by the beginning of a fused operator's name.
        launch_s: Shortest time of a kernel in eager mode.
        graph_launch_s: Shortest time of a kernel in a captured graph.
        call_s: Host time of an operator's call.
        kernel_s: Host time of a kernel that a fused operator starts.
        host_slowdown: Measured host time over that by `call_s` and `kernel_s`.
        host_fitted: Whether `host_slowdown` was fitted to measurements.
        link_bytes: Share of a link's bandwidth.
        collective_s: Start of a collective.
        parameters_overlap: Share of the communication of parameters and gradients that runs beside
            computation.
        power: Shares of the power limit: ``idle``, ``products`` and ``bytes``.
        fitted_on: Name of the device that fits are from; empty if there are none.
        records: Identifiers of the records that fits are from.
        accuracy: Error of predictions on that device; None without recorded pairs.
    """

    attainable: Mapping[str, float]
    kinds: Mapping[str, KindFractions]
    launch_s: float
    graph_launch_s: float
    call_s: float
    kernel_s: float
    host_slowdown: float = 1.0
    host_fitted: bool = False
    link_bytes: float
    collective_s: float
    parameters_overlap: float
    power: Mapping[str, float]
    fitted_on: str = ""
    records: tuple[str, ...] = ()
    accuracy: Accuracy | None = None

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> Self:
        """Return the fractions of a table such as ``achievable.toml``."""
        device, host, communication = table["device"], table["host"], table["communication"]
        return cls(
            attainable=table["attainable"],
            kinds={name: KindFractions(**entry) for name, entry in table["kind"].items()},
            launch_s=device["launch_s"],
            graph_launch_s=device["graph_launch_s"],
            call_s=host["call_s"],
            kernel_s=host["kernel_s"],
            link_bytes=communication["bytes"],
            collective_s=communication["call_s"],
            parameters_overlap=communication["parameters"],
            power={name: share for name, share in table["power"].items() if name != "reason"},
        )

    def kind_of(self, operator: str) -> str:
        """Return the key of an operator in `kinds`: a fused operator's own, or its kind."""
        namespace, _, name = operator.partition(".")
        if namespace == "foldperf":
            own = [kind for kind in self.kinds if name.startswith(kind)]
            if own:
                return max(own, key=len)
        kind = operator_kind(operator)
        return kind if kind in self.kinds else "other"

    def fitted(
        self,
        device: str,
        slowdowns: Mapping[str, float],
        *,
        records: tuple[str, ...],
        accuracy: Accuracy | None,
    ) -> "Achievable":
        """Return these fractions with fitted slowdowns.

        Args:
            device: Name of the device that was measured.
            slowdowns: By kind that was measured; `HOST` is the host's.
            records: Identifiers of the records.
            accuracy: Error of predictions on that device.
        """
        kinds = {
            name: replace(kind, slowdown=slowdowns[name], fitted=True)
            if name in slowdowns
            else kind
            for name, kind in self.kinds.items()
        }
        return replace(
            self,
            kinds=kinds,
            host_slowdown=slowdowns.get(HOST, self.host_slowdown),
            host_fitted=HOST in slowdowns,
            fitted_on=device,
            records=records,
            accuracy=accuracy,
        )


@cache
def assumed() -> Achievable:
    """Return the assumed fractions of ``achievable.toml``."""
    return Achievable.from_table(tomllib.loads(TABLE.read_text(encoding="utf-8")))
