"""Scripted stand-in of AMD SMI's Python package, with any number of devices."""

from enum import IntEnum
from types import SimpleNamespace

BDF = "0000:c1:00.0"
ENERGY = {"energy_accumulator": 2_000_000, "counter_resolution": 15.3, "timestamp": 5_000_000_000}
MI300X = {
    "amdsmi_get_gpu_asic_info": {
        **{"market_name": "AMD Instinct MI300X", "asic_serial": "0x7", "device_id": "0x74a1"},
    },
    "amdsmi_get_gpu_vram_usage": {"vram_total": 196_288, "vram_used": 1024},
    "amdsmi_get_gpu_driver_info": {"driver_version": "6.14"},
    "amdsmi_get_gpu_vbios_info": {"version": "022.040"},
    "amdsmi_get_gpu_board_info": {"product_serial": "N/A"},
    "amdsmi_get_power_cap_info": {"power_cap": 750_000_000},
    "amdsmi_get_gpu_compute_partition": "SPX",
    "amdsmi_get_gpu_device_uuid": "aa-bb",
    "amdsmi_get_gpu_device_bdf": BDF,
    "amdsmi_get_energy_count": ENERGY,
    "amdsmi_get_gpu_activity": {"gfx_activity": 64, "umc_activity": 21, "mm_activity": "N/A"},
    "amdsmi_get_temp_metric": 71,
    "amdsmi_get_clock_info": {"clk": 2100, "max_clk": 2100},
    "amdsmi_get_violation_status": {
        **{"active_ppt_pwr": True, "active_prochot_thrm": False, "active_hbm_thrm": "N/A"},
        **{"active_socket_thrm": False, "active_vr_thrm": False, "active_low_utilization": True},
    },
    "amdsmi_get_gpu_metrics_info": {"indep_throttle_status": "N/A", "throttle_status": "N/A"},
}


class FakeAmdSmi(SimpleNamespace):
    """Fake AMD SMI with scripted results of queries, or codes of the errors to raise.

    Attributes:
        calls: Name and arguments of every call.
        devices: Results by PCI address, in the library's order of devices; the handle of a device
            is ``handle of`` its address.
    """

    class AmdSmiException(Exception):
        pass

    class AmdSmiLibraryException(AmdSmiException):
        def __init__(self, err_code):
            super().__init__(f"Error code:\n\t{err_code}")
            self.err_code = err_code

    class AmdSmiParameterException(AmdSmiException):
        err_code = None

    class AmdSmiTemperatureType(IntEnum):
        EDGE = 0
        HOTSPOT = 1

    class AmdSmiTemperatureMetric(IntEnum):
        CURRENT = 0

    class AmdSmiClkType(IntEnum):
        SYS = 0
        GFX = 0

    def __init__(self, devices=None, **answers):
        super().__init__(calls=[])
        self.devices = devices or {BDF: MI300X | answers}
        for name in {name for device in self.devices.values() for name in device}:
            setattr(self, name, self._function(name))

    def amdsmi_get_processor_handles(self):
        return [f"handle of {bdf}" for bdf in self.devices]

    def amdsmi_get_processor_handle_from_bdf(self, bdf):
        return f"handle of {bdf}"

    def _function(self, name):
        def call(handle, *arguments):
            self.calls.append((name, handle, *arguments))
            answer = self.devices[handle.removeprefix("handle of ")].get(name, 2)
            if name == "amdsmi_get_temp_metric":
                return answer
            if answer is None:
                raise self.AmdSmiParameterException
            if isinstance(answer, int):
                raise self.AmdSmiLibraryException(answer)
            return answer

        call.__name__ = name
        return call


def mi250x(bdf: str, reports: bool, busy: int = 0, serial: str = "N/A", **answers) -> dict:
    """Return the query results of one die of an MI250X.

    Args:
        bdf: PCI address.
        reports: Whether the driver reports the module's energy and power cap at this die.
        busy: Busy share. Unit: %.
        serial: Serial number of the board.
        answers: Further results.
    """
    return MI300X | {
        "amdsmi_get_gpu_asic_info": {
            **{"market_name": "AMD Instinct MI250X", "device_id": "0x7408"},
            **{"asic_serial": f"serial of {bdf}"},
        },
        "amdsmi_get_gpu_vram_usage": {"vram_total": 65_520, "vram_used": 512},
        "amdsmi_get_gpu_board_info": {"product_serial": serial},
        "amdsmi_get_power_cap_info": {"power_cap": 560_000_000 if reports else 0},
        "amdsmi_get_gpu_compute_partition": 2,
        "amdsmi_get_gpu_device_uuid": f"uuid of {bdf}",
        "amdsmi_get_gpu_device_bdf": bdf,
        "amdsmi_get_energy_count": ENERGY if reports else ENERGY | {"energy_accumulator": 0},
        "amdsmi_get_gpu_activity": {"gfx_activity": busy, "umc_activity": busy // 2},
        "amdsmi_get_violation_status": 2,
        "amdsmi_get_gpu_metrics_info": {"indep_throttle_status": False, "throttle_status": False},
        **answers,
    }


def modules(count: int = 2, busy: int = 0, serials: bool = False) -> dict[str, dict]:
    """Return the dies of modules by address; the first of each module reports its energy.

    Args:
        count: Number of modules.
        busy: Busy share of every die. Unit: %.
        serials: Whether the driver reports serial numbers of the boards.
    """
    dies = {}
    for module in range(count):
        for die in range(2):
            bdf = f"0000:{0xC1 + 16 * module + 5 * die:02x}:00.0"
            serial = f"board {module}" if serials else "N/A"
            dies[bdf] = mi250x(bdf, reports=die == 0, busy=busy, serial=serial)
    return dies
