"""Memory of a rank that limits a search."""

from dataclasses import dataclass
from typing import Literal

from bench.cgroup import usable_memory_bytes
from bench.devices import find_device
from bench.errors import UsageError
from refsys.costs.devices import named_device
from refsys.errors import ArgumentError

# Devices of this machine, by the names of sweeps.
LOCAL = ("auto", "cpu", "cuda")


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of each rank.

    Attributes:
        name: Name of the device, or of the limit.
        kind: Kind of device: cpu is limited by the resident memory of a rank's process, which a
            guard watches; cuda by the device's allocator.
        nbytes: The limit. Unit: B.
        device: Device that runs are measured on, by the name that sweeps have; empty if it is not
            one of this machine.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    nbytes: int
    device: str

    @property
    def gib(self) -> float:
        """Limit in GiB."""
        return self.nbytes / 2**30


def find_memory(device: str | None, gib: float | None, *, measured: bool) -> Memory:
    """Return the memory that a frontier is searched under.

    Args:
        device: Device of the table, or of this machine; None if none was named.
        gib: Limit of a rank; None for the device's own memory.
        measured: Whether cases are to run, which takes a device of this machine.

    Raises:
        UsageError: the device is not known or not here, or the limit cannot be kept there.
    """
    if device is not None and device not in LOCAL:
        return _listed(device, gib, measured=measured)
    if device is None and gib is not None and not measured:
        return Memory(f"an accelerator of {gib:g} GiB", "cuda", int(gib * 2**30), "")
    name = device or "auto"
    found = find_device(name)
    if found.torch_device.type == "cpu":
        most = usable_memory_bytes()
        if gib is not None and gib * 2**30 > most:
            raise UsageError(
                f"--memory {gib:g}: this process can have {most / 2**30:.2f} GiB; choose less"
            )
        return Memory("cpu", "cpu", most if gib is None else int(gib * 2**30), name)
    if gib is not None:
        raise UsageError(
            f"--memory {gib:g}: an accelerator's memory is its own; leave out --memory, or take "
            "--device cpu"
        )
    described = found.describe()
    if described.memory_bytes is None:
        raise UsageError(f"{described.name} does not tell its memory; state --memory alone")
    return Memory(described.name, "cuda", described.memory_bytes, name)


def _listed(device: str, gib: float | None, *, measured: bool) -> Memory:
    try:
        entry = named_device(device)
    except ArgumentError as error:
        raise UsageError(
            f"--device: {error}, one of this machine ({', '.join(LOCAL)}), or state --memory alone"
        ) from None
    if entry.memory_bytes is None:
        raise UsageError(f"--device {device}: its memory is not listed; state --memory alone")
    if measured:
        raise UsageError(
            f"--device {device} --measure: cases run on a device of this machine; leave out "
            "--measure, or name one of " + ", ".join(LOCAL)
        )
    if gib is not None:
        raise UsageError(f"--memory {gib:g} --device {device}: state one of the two")
    return Memory(entry.name, "cuda", int(entry.memory_bytes), "")
