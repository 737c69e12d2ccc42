"""Training steps of one rank at the widths of the full model, traced; nothing is computed.

A stack has as few blocks as make up each kind. As a script, print the figures of the whole model at
2,048 tokens on 1 and 16 ranks, and fail if a law does not hold:
``PYTHONPATH=.:tests python tests/support/traced_steps.py``.
"""

import dataclasses
import sys
from time import process_time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refsys.config import PRESETS, ModelConfig
from refsys.costs.prediction import predict
from refsys.costs.trace import Trace
from refsys.ops.triton_backend import watch_launches
from refsys.run_config import RunConfig, run_config
from refsys.training.build import build_abstract_trainer, build_training
from workloads.structure_training import TrainingProgram

TOKENS, RANKS = 2048, 16
MODEL: ModelConfig = dataclasses.replace(
    PRESETS["full"],
    pairformer_blocks=1,
    msa_blocks=2,
    template_blocks=1,
    confidence_blocks=1,
    atom_blocks=1,
    token_blocks=1,
)
# Elements of the largest tensor, in shards of the pair representation.
LARGEST_SHARDS = 4
# Factor by which the peak may exceed a part of that of one rank.
PEAK_SLACK = 1.1


class Step(NamedTuple):
    """Costs of a step on one rank.

    Attributes:
        trace: Its trace.
        largest: Most elements of a tensor that an operator returned or a kernel was given. A view
            has at most the elements of its storage: an expanded one holds no memory.
        at: Operator or kernel, and shape, of that tensor.
    """

    trace: Trace
    largest: int
    at: str


class _Sizes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.largest, self.at = 0, ""

    def note(self, name: str, values: object) -> None:
        for tensor in tree_leaves(values):
            if not isinstance(tensor, Tensor):
                continue
            held = tensor.untyped_storage().nbytes() // tensor.element_size()
            if min(tensor.numel(), held) > self.largest:
                self.largest = min(tensor.numel(), held)
                self.at = f"{name} {tuple(tensor.shape)}"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.note(str(func), out)
        return out


def configuration(model: str, ranks: int) -> RunConfig:
    """Return the run: fused kernels, a quarter of a rank's rows at once, parameters sharded."""
    return run_config(
        model=model,
        preset="full",
        tokens=TOKENS,
        alignment_rows=64,
        atoms=8 * TOKENS,
        samples=2,
        cycles=1,
        sample_cycles=False,
        entries=("synthetic",),
        precision="bfloat16",
        backend="triton",
        context_ranks=ranks,
        shard_parameters=ranks > 1,
        chunk_rows=TOKENS // (4 * ranks),
    ).resolved()


def traced_step(model: str, ranks: int) -> Step:
    """Return the step of the last rank, optimizer included; on several ranks with FSDP2."""
    config, sizes = configuration(model, ranks), _Sizes()

    def build() -> TrainingProgram:
        trainer = build_abstract_trainer(config, build_training(config, model=MODEL))
        program = TrainingProgram(trainer)
        program.run("data")
        program.phases = tuple(p for p in program.phases if p not in program.host_phases)
        run = program.run

        def measured(phase: str) -> None:
            with sizes, watch_launches(lambda start: sizes.note(start.kernel, start.arguments)):
                run(phase)

        program.run = measured
        return program

    trace = predict(build, ranks=ranks, rank=ranks - 1)
    return Step(trace, sizes.largest, sizes.at)


def shards(step: Step, ranks: int) -> float:
    """Return the size of the largest tensor in shards of the pair representation."""
    return step.largest / (TOKENS**2 * MODEL.c_z / ranks)


def main() -> int:
    """Print peaks and largest tensors of the full model; return 1 if a law does not hold."""
    torch.set_num_threads(1)
    steps = {}
    for ranks in (1, RANKS):
        start = process_time()
        steps[ranks] = step = traced_step("alphafold3", ranks)
        print(
            f"{ranks} ranks: peak {step.trace.peak.nbytes / 2**30:.3f} GiB, largest tensor "
            f"{shards(step, ranks):.3f} shards ({step.at}), {process_time() - start:.0f} CPU-s"
        )
        for state, nbytes in sorted(step.trace.peak.by_state.items()):
            print(f"  {state} {nbytes / 2**20:.1f} MiB")
    one, many = (steps[ranks].trace.peak.nbytes for ranks in (1, RANKS))
    print(f"peak falls by {one / many:.2f} on {RANKS} ranks")
    holds = many <= PEAK_SLACK * one / RANKS and shards(steps[RANKS], RANKS) <= LARGEST_SHARDS
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
