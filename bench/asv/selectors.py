"""Selectors of the dashboard beside asv's own: accelerator, vendor, driver, torch.

``python -m bench.asv.selectors`` prints those of this machine as JSON.
"""

import json
from collections.abc import Sequence

from bench.records.record import Record, RecordedDevice

NONE = "none"


def of_devices(devices: Sequence[RecordedDevice], torch: str | None) -> dict[str, str]:
    """Return the selectors of a case.

    Args:
        devices: Device of each rank.
        torch: Version of torch.
    """
    accelerators = [device for device in devices if device.kind != "cpu"]

    def joined(field: str) -> str:
        return (
            ", ".join(sorted({str(getattr(device, field) or NONE) for device in accelerators}))
            or NONE
        )

    return {
        "gpu": joined("name"),
        "vendor": joined("vendor"),
        "driver": joined("driver"),
        "torch": torch or NONE,
    }


def of_record(record: Record) -> dict[str, str]:
    """Return the selectors of a record."""
    return of_devices(record.devices, record.software["torch"])


def main() -> None:
    """Print the selectors of this machine."""
    import torch

    from bench.devices import find_device

    device = RecordedDevice(**find_device().describe().as_json())
    print(json.dumps(of_devices([device], torch.__version__)))


if __name__ == "__main__":
    main()
