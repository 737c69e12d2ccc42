"""Package of workloads by a third party, installed in a folder."""

from pathlib import Path

SOURCE = '''
"""Workloads with scripted behaviour."""

import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from refsys.options import option
from workloads.workload import StaticCosts, Program, Workload
from workloads.errors import UnsupportedError


class Toy(Program):
    phases = ("forward",)

    def __init__(self, width, behaviour):
        self.layer, self.behaviour = nn.Linear(width, width), behaviour

    @property
    def module(self):
        return self.layer

    def tensors(self):
        return {"parameters": list(self.layer.parameters())}

    def run(self, phase):
        self.layer(torch.ones(1, self.layer.in_features))

    def outcome(self):
        return {"loss": float("nan") if self.behaviour == "nan" else 1.5}


@dataclass(frozen=True, kw_only=True)
class ToyCase:
    tokens: int = option(8, "width", minimum=1)
    behaviour: str = option("good", "behaviour of the program")


class ToyWorkload(Workload):
    name = "toy"
    summary = "a layer, or a misbehaviour"
    data_parallel = True
    configuration = ToyCase

    def labels(self, config):
        return {"tokens": config.tokens, "series": "toy", "variant": config.behaviour}

    def static_costs(self, config):
        n = config.tokens
        return StaticCosts(
            parameters=n * n + n, components={"layer": n * n + n}, forward_flops=2 * n * n,
            forward_flops_by_component={"layer": 2 * n * n}, step_flops=6 * n * n,
            arithmetic="float32", minimum_bytes=4 * n * n,
        )

    def build_abstract(self, config):
        return Toy(config.tokens, "good")

    def build(self, config, setting):
        behaviour = config.behaviour
        behaviour, _, rank = behaviour.partition(" on rank ")
        if rank and int(rank) != setting.rank:
            behaviour = "wait for the others"
        if behaviour == "wait for the others":
            torch.distributed.barrier()
        elif behaviour == "hang":
            time.sleep(3600)
        elif behaviour == "hang with children":
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        elif behaviour == "leave a daemon":
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(3600)
                os._exit(0)
        elif behaviour == "raise":
            raise RuntimeError("the layer\\nis unhappy")
        elif behaviour == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif behaviour == "exit":
            print("I give up", flush=True)
            os._exit(7)
        elif behaviour == "quit":
            os._exit(0)
        elif behaviour == "eat":
            hoard = []
            while True:
                hoard.append(bytearray(64 * 2**20))
                time.sleep(0.01)
        elif behaviour == "eat at once":
            bytearray(8 * 2**30)
        elif behaviour == "memory error":
            raise MemoryError("too much was asked")
        elif behaviour == "unsupported":
            raise UnsupportedError("this needs a moon")
        elif behaviour == "forbidden":
            raise PermissionError("not for you")
        elif behaviour == "noise":
            for _ in range(2000):
                sys.stdout.write("\\x00\\xff garbage " * 50)
        elif behaviour == "garbage":
            Path(f"{sys.argv[2]}.{setting.rank}").write_text("\\x00 not json {")
            os._exit(0)
        return Toy(config.tokens, behaviour)
'''


def install(folder: Path) -> Path:
    """Write the package and its metadata, so that the folder is an import path."""
    (folder / "toys.py").write_text(SOURCE, encoding="utf-8")
    metadata = folder / "toys-1.0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(
        "[foldperf.workloads]\ntoy = toys:ToyWorkload\nbroken = toys:NoSuchThing\n",
        encoding="utf-8",
    )
    return folder
