"""Scripted stand-ins of NVML's Python binding: one card, and one card in MIG mode."""

from functools import partial
from types import SimpleNamespace

ERRORS = (
    *("NVMLError_NotSupported", "NVMLError_NoPermission", "NVMLError_GpuIsLost"),
    *("NVMLError_NotFound", "NVMLError_FunctionNotFound"),
)
DEFAULTS = {
    "nvmlDeviceGetHandleByUUID": "handle of GPU-7",
    "nvmlDeviceGetHandleByIndex": "handle of 0",
    "nvmlDeviceGetName": b"NVIDIA H200",
    "nvmlDeviceGetUUID": "GPU-7",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=150_754_820_096, used=3 * 2**30),
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetVbiosVersion": "96.00",
    "nvmlSystemGetDriverVersion": "580.1",
    "nvmlDeviceGetTotalEnergyConsumption": 12_345_678,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=87, memory=40),
    "nvmlDeviceGetTemperature": 55,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetCurrentClocksEventReasons": 0,
    "nvmlGpmQueryDeviceSupport": SimpleNamespace(isSupportedDevice=1),
}


class FakeNvml(SimpleNamespace):
    """Fake NVML with scripted results of queries, or names of the errors to raise.

    Attributes:
        calls: Name and arguments of every call.
        live_samples: Allocated samples of the performance monitor.
        activity: Value of each metric of the performance monitor; absent metrics fail.
    """

    class NVMLError(Exception):
        pass

    NVML_SUCCESS = 0
    NVML_GPM_METRICS_GET_VERSION = 1
    NVML_GPM_METRIC_SM_UTIL = 2
    NVML_GPM_METRIC_SM_OCCUPANCY = 3
    NVML_GPM_METRIC_ANY_TENSOR_UTIL = 5
    NVML_GPM_METRIC_DRAM_BW_UTIL = 10

    def __init__(self, **answers):
        errors = {name: type(name, (FakeNvml.NVMLError,), {}) for name in ERRORS}
        super().__init__(calls=[], live_samples=[], **errors)
        self.activity = {2: 80.0, 3: 50.0, 5: 30.0, 10: 40.0}
        self._samples = 0
        self.c_nvmlGpmMetricsGet_t = self._request
        for name in ("SampleAlloc", "SampleGet", "SampleFree", "MetricsGet"):
            setattr(self, f"nvmlGpm{name}", self._gpm(name))
        for name, answer in (DEFAULTS | answers).items():
            setattr(self, name, self._function(name, answer))

    def _function(self, name, answer):
        def call(*arguments):
            self.calls.append((name, *arguments))
            if isinstance(answer, str) and answer.startswith("NVMLError_"):
                raise getattr(self, answer)(f"script says {answer}")
            return answer

        call.__name__ = name
        return call

    def _gpm(self, name):
        def call(*arguments):
            self.calls.append((f"nvmlGpm{name}", *arguments))
            if name == "SampleAlloc":
                self._samples += 1
                self.live_samples.append(self._samples)
                return self._samples
            if name == "SampleFree":
                self.live_samples.remove(arguments[0])
            if name == "MetricsGet":
                self._fill(arguments[0])
            return None

        call.__name__ = f"nvmlGpm{name}"
        return call

    def _request(self):
        metrics = [SimpleNamespace(metricId=0, nvmlReturn=3, value=0.0) for _ in range(8)]
        return SimpleNamespace(version=0, numMetrics=0, sample1=None, sample2=None, metrics=metrics)

    def _fill(self, request):
        assert request.version == 1
        assert request.sample1 < request.sample2, "the earlier sample comes first"
        assert {request.sample1, request.sample2} <= set(self.live_samples)
        for metric in request.metrics[: request.numMetrics]:
            if metric.metricId in self.activity:
                metric.value, metric.nvmlReturn = self.activity[metric.metricId], 0


class FakeMig(FakeNvml):
    """Fake NVML with one H100 in MIG mode: the card (GPU-7) and its slices."""

    def __init__(self, slices=("MIG-a1", "MIG-a2"), **answers):
        super().__init__(nvmlDeviceGetMigMode=[1, 1], **answers)
        self.slices = list(slices)
        for name in (
            *("nvmlDeviceGetHandleByUUID", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID"),
            *("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetName", "nvmlDeviceGetMaxMigDeviceCount"),
            *("nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetTemperature"),
            *("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", "nvmlDeviceGetMigMode"),
            "nvmlDeviceGetCurrentClocksEventReasons",
        ):
            setattr(self, name, partial(self._answer, name))
            getattr(self, name).__name__ = name

    def _answer(self, name, subject=None, number=0):
        if name == "nvmlDeviceGetHandleByUUID":
            uuid = subject.decode()
            if uuid != "GPU-7" and uuid not in self.slices:
                raise self.NVMLError_NotFound(uuid)
            return uuid
        if name == "nvmlDeviceGetMigDeviceHandleByIndex":
            assert subject == "GPU-7"
            if number >= len(self.slices):
                raise self.NVMLError_NotFound(number)
            return self.slices[number]
        is_slice = subject in self.slices
        memory = {"MIG-a1": 9_856, "MIG-a2": 19_968}.get(subject, 81_559) * 2**20
        profile = f" MIG {subject[4:]}" if is_slice else ""
        answers = {
            "nvmlDeviceGetHandleByIndex": "GPU-7",
            "nvmlDeviceGetUUID": subject,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=memory, used=memory // 2),
            "nvmlDeviceGetName": f"NVIDIA H100 80GB HBM3{profile}",
            "nvmlDeviceGetMaxMigDeviceCount": 7,
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": "GPU-7",
        }
        if name in answers:
            return answers[name]
        if is_slice:
            raise self.NVMLError_NotSupported(name)
        return {
            "nvmlDeviceGetTemperature": 55,
            "nvmlDeviceGetMigMode": [1, 1],
            "nvmlDeviceGetCurrentClocksEventReasons": 0x44,
        }[name]
