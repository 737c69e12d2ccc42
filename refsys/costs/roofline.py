"""Roofline bounds: the least time that the rates of a device allow for given work.

Each resource is taken by itself: its use cannot be beaten, and no two of them add up, since they
may overlap. The bound of a step is the largest.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Least work of a step, by any implementation.

    Attributes:
        flops: Floating-point operations of matrix products.
        nbytes: Bytes read from and written to device memory.
        exponentials: Exponentials.
        instructions: Instructions of single threads, beside matrix products and loads.
    """

    flops: float = 0
    nbytes: float = 0
    exponentials: float = 0
    instructions: float = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRates:
    """Rates of a device, each per second; None is not known.

    Attributes:
        flops_s: Floating-point operations of dense matrix products, in the dtype of the work.
        bytes_s: Bytes of device memory.
        exponentials_s: Exponentials.
        instructions_s: Instructions of single threads.
    """

    flops_s: float | None = None
    bytes_s: float | None = None
    exponentials_s: float | None = None
    instructions_s: float | None = None


@dataclass(frozen=True, slots=True)
class Roofline:
    """Least times of a step on a device.

    Attributes:
        seconds: By resource, for resources that the work uses and the device has a rate of.
        unknown: Resources that the work uses and the device has no rate of.
    """

    seconds: dict[str, float]
    unknown: tuple[str, ...] = ()

    @property
    def bound_s(self) -> float | None:
        """Return the time that no implementation can beat; None if no resource is used."""
        return max(self.seconds.values(), default=None)


def roofline(work: Work, rates: DeviceRates) -> Roofline:
    """Return the least time by resource.

    Resources are ``products``, ``bytes``, ``exponentials`` and ``instructions``.

    Args:
        work: Least work of a step.
        rates: Rates of the device.
    """
    pairs = {
        "products": (work.flops, rates.flops_s),
        "bytes": (work.nbytes, rates.bytes_s),
        "exponentials": (work.exponentials, rates.exponentials_s),
        "instructions": (work.instructions, rates.instructions_s),
    }
    return Roofline(
        {name: amount / rate for name, (amount, rate) in pairs.items() if amount and rate},
        tuple(name for name, (amount, rate) in pairs.items() if amount and rate is None),
    )
