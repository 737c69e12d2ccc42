"""Devices that the ranks of a sweep's cases run on, and cases that cannot run on any.

An accelerator serves one rank. Ranks on the CPU share its cores, one core each at the least. A case
that cannot run here is detected without starting a process.
"""

from collections.abc import Iterable

from bench.devices import Device, find_device
from bench.errors import UsageError
from bench.records.record import RecordedDevice
from bench.run.ranks import energy_domains
from bench.run.sweep import Case
from workloads.workload import Catalogue


def recorded_device(device: Device) -> RecordedDevice:
    """Return the identity and state of a device as records have them."""
    return RecordedDevice(**device.describe().as_json())


class Placement:
    """Devices of cases, one for each rank."""

    def __init__(self, cases: Iterable[Case], catalogue: Catalogue, cores: int) -> None:
        """Find the devices.

        Args:
            cases: All cases that are asked about later.
            catalogue: Their workloads.
            cores: Cores that this process can keep busy.

        Raises:
            UsageError: there is no device of a case's choice at all.
        """
        self._catalogue, self._cores = catalogue, cores
        self._devices: dict[str, list[Device]] = {}
        self._descriptions: dict[str, list[RecordedDevice]] = {}
        # Reason for which there is no further device of a choice.
        self._lacking: dict[str, str] = {}
        for case in cases:
            self._find(case.device, case.ranks)
        for choice, devices in self._devices.items():
            self._descriptions[choice] = [recorded_device(device) for device in devices]

    def _find(self, choice: str, ranks: int) -> None:
        """Look for as many devices of a choice as ranks need."""
        devices = self._devices.setdefault(choice, [])
        while len(devices) < ranks and choice not in self._lacking:
            if devices and devices[0].torch_device.type == "cpu":
                # The host is the same device for all ranks.
                devices.append(devices[0])
                continue
            try:
                devices.append(find_device(choice, len(devices)))
            except UsageError as error:
                if not devices:
                    raise
                self._lacking[choice] = str(error)

    def descriptions(self, case: Case) -> list[RecordedDevice]:
        """Return the device of each rank, as records have it; fewer if the machine has fewer."""
        return self._descriptions[case.device][: case.ranks]

    def energy_domains(self, case: Case) -> list[object]:
        """Return the energy domain of each rank's device; see `bench.run.ranks`."""
        return energy_domains(self.descriptions(case))

    def unsupported_reason(self, case: Case) -> str | None:
        """Return the reason why a case cannot run here; None if it can."""
        devices = self._devices[case.device]
        device = devices[0].torch_device
        if len(devices) < case.ranks:
            return f"{case.ranks} ranks: {self._lacking[case.device]}"
        if device.type == "cpu" and case.ranks > self._cores and not case.share_cores:
            return (
                f"{case.ranks} ranks need a core each, and this process can use {self._cores}; "
                "run fewer ranks, or set share_cores in the sweep's protocol"
            )
        return self._catalogue[case.workload].unsupported_reason(case.config, device)
