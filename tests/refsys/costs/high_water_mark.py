"""Print the predicted peak of a trunk step and the process's own, in bytes. Run as a process."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import torch

from bench.devices.cpu import CpuDevice
from bench.probes.host_memory import return_freed_memory
from bench.probes.memory import MemoryProbe
from bench.probes.steps import run_step
from workloads.catalogue import catalogue
from workloads.predicted_costs import predicted_costs
from workloads.workload import ExecutionContext

return_freed_memory(True)
workload = catalogue()["alphafold3-trunk"]
config = workload.configure({"preset": "tiny", "tokens": 120, "entry": "synthetic", "workers": 0})
predicted = predicted_costs(workload, config).peak.nbytes
probe = MemoryProbe(CpuDevice())
setting = ExecutionContext(device=torch.device("cpu"), store=Path(tempfile.gettempdir()))
program = workload.build(config, setting)
probe.peaks(lambda: run_step(program), first=True)
values = probe.peaks(lambda: run_step(program), first=False)
print(predicted, values["peak_resident_bytes"].value)
