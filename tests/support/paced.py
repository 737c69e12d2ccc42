"""Workload whose speed depends on the source tree from which it is imported."""

import shutil
from pathlib import Path

from bench.gate.timing.source_trees import PACKAGES
from bench.records.provenance import ROOT

# Steps sleep, so that their time does not depend on the load of the machine.
SOURCE = '''
"""Cases whose step times or failures are set by a file in the source tree."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import workloads
from workloads.errors import UnsupportedError
from refsys.options import option
from workloads.workload import StaticCosts, Program, Workload


class Paced(Program):
    phases = ("forward", "backward", "optimizer")

    def __init__(self, seconds):
        self.seconds = dict(zip(self.phases, seconds))

    def run(self, phase):
        time.sleep(self.seconds[phase])


@dataclass(frozen=True, kw_only=True)
class PacedCase:
    operator: str = option("same", "which", titled=True)


class PacedWorkload(Workload):
    name = "paced"
    summary = "sleeps"
    configuration = PacedCase
    selections = {"timing": ({"operator": ["same", "slower", "broken", "nowhere", "new"]},)}

    def static_costs(self, config):
        return StaticCosts(
            parameters=0, components={}, forward_flops=0, forward_flops_by_component={},
            step_flops=0, arithmetic="float32", minimum_bytes=0,
        )

    def build_abstract(self, config):
        raise NotImplementedError

    def build(self, config, setting):
        table = json.loads((Path(workloads.__path__[0]) / "pace.json").read_text())
        found = table.get(config.operator, "there is no such operator")
        if found == "die":
            print("I give up", flush=True)
            os._exit(7)
        if found == "hang":
            time.sleep(3600)
        if found == "raise":
            raise RuntimeError("the operator is unhappy")
        if isinstance(found, str):
            raise UnsupportedError(found)
        return Paced(found)
'''


def install(folder: Path) -> Path:
    """Write the package and its metadata, so that the folder is an import path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "paced.py").write_text(SOURCE, encoding="utf-8")
    metadata = folder / "paced-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: paced\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(
        "[foldperf.workloads]\npaced = paced:PacedWorkload\n", encoding="utf-8"
    )
    return folder


def tree(folder: Path, pace: str) -> Path:
    """Copy this source tree into a folder, with the step times `pace` (JSON)."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    (folder / "workloads" / "pace.json").write_text(pace, encoding="utf-8")
    return folder
