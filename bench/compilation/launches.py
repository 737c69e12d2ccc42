"""Launches of whole training steps and of single operators, traced with shapes alone."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from torch._subclasses.fake_tensor import FakeTensorMode

from bench.compilation.offline import offline, portable, variant
from bench.compilation.specimens import call_launches
from refsys.config import ModelConfig
from refsys.ops.backend import OPERATORS
from refsys.ops.rounds import shortened
from refsys.ops.triton_backend import COPY, PRODUCT, Launch, assume_architecture, watch_launches
from refsys.training.loading import SYNTHETIC
from workloads.alphafold3 import AlphaFold3Case, AlphaFold3Workload
from workloads.operator_arguments import CALLS
from workloads.operators import OperatorsWorkload

# One length of each kind: a multiple of every tile, of 16, of 4, an odd one; and of each kind a
# longer one, whose sums need no parts.
TOKENS = (383, 384, 400, 500, 768, 997, 1024)
# Stacks whose blocks are launched one like another, and how many of each are enough. The others'
# depth shows in their kernels: what all their blocks read is projected at once.
_STACKS = ("pairformer_blocks", "msa_blocks", "template_blocks", "confidence_blocks")
_BLOCKS = 2


class Shallow(AlphaFold3Workload):
    """The whole model with the first blocks of some stacks, which are launched like the others."""

    def model_config(self, config: AlphaFold3Case) -> ModelConfig:
        """See `AlphaFold3Workload`."""
        model = super().model_config(config)
        return replace(model, **{name: min(_BLOCKS, getattr(model, name)) for name in _STACKS})


def step_launches(
    architecture: str,
    tokens: int,
    *,
    preset: str = "full",
    precision: str = "bfloat16",
    whole: bool = False,
) -> list[Launch]:
    """Return the launches of one training step of AlphaFold 3, forward and backward.

    Args:
        architecture: As ``sm_90``.
        tokens: Crop.
        preset: Model size, with its own numbers of alignment rows and diffusion samples.
        precision: Dtype table.
        whole: Every block of each stack; otherwise the first two where all are launched alike.

    Returns:
        Those of the project's kernels, in order, with pointers in place of tensors.
    """
    workload = AlphaFold3Workload() if whole else Shallow()
    axes = {"preset": preset, "tokens": tokens, "precision": precision}
    config = workload.configure(axes | {"entry": SYNTHETIC, "backend": "triton"})
    launches: list[Launch] = []
    with assume_architecture(architecture), FakeTensorMode(), shortened():
        program = workload.build_abstract(config)
        with watch_launches(_keep(launches)):
            for phase in program.phases:
                program.run(phase)
    return launches


def single_launches(
    architecture: str, tokens: int, *, preset: str = "full", precision: str = "bfloat16"
) -> list[Launch]:
    """Return the launches of each operator at the shapes of the workload ``operators``.

    For the arguments and the result see `step_launches`.
    """
    workload = OperatorsWorkload()
    axes = {"preset": preset, "precision": precision, "tokens": tokens}
    names = [name for name, operator in OPERATORS.items() if "triton" in operator.kernels]
    launches: list[Launch] = []
    with assume_architecture(architecture):
        # Some are parts of others and have no case of their own.
        for name in (name for name in names if name in CALLS):
            operator, call, table = workload.parts(workload.configure(axes | {"operator": name}))
            launches += map(portable, call_launches(operator, table, call))
    return launches


def _keep(launches: list[Launch]) -> Callable[[Launch], None]:
    def keep(launch: Launch) -> None:
        if launch.kernel not in (COPY, PRODUCT):
            launches.append(portable(launch))

    return keep


def distinct(launches: Iterable[Launch], architecture: str) -> dict[str, Launch]:
    """Return the first launch of each variant that Triton compiles, by its key in a process."""
    found: dict[str, Launch] = {}
    with offline(architecture):
        for launch in launches:
            found.setdefault(variant(launch), launch)
    return found
