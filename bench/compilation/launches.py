"""Kernel launches of full training steps and of single operators, traced with shapes alone."""

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

# One length of each kind: a multiple of every tile, of 16, of 4, and an odd one; and a longer one
# of each kind, whose reductions are not split.
TOKENS = (383, 384, 400, 500, 768, 997, 1024)
# Stacks whose blocks all launch the same kernels, and the number of blocks that suffices. The depth
# of other stacks changes their kernels: a shared input is projected for all blocks at once.
_STACKS = ("pairformer_blocks", "msa_blocks", "template_blocks", "confidence_blocks")
_BLOCKS = 2


class ShallowAlphaFold3(AlphaFold3Workload):
    """Full model with only the first blocks of stacks whose blocks launch the same kernels."""

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
    all_blocks: bool = False,
) -> list[Launch]:
    """Return the launches of one training step of AlphaFold 3, forward and backward.

    Args:
        architecture: Name such as ``sm_90``.
        tokens: Crop size.
        preset: Model preset, with its MSA depth and number of diffusion samples.
        precision: Name of the dtype table.
        all_blocks: Trace every block of each stack; otherwise only the first two of stacks whose
            blocks launch the same kernels.

    Returns:
        Launches of the project's kernels, in order, with pointers in place of tensors.
    """
    workload = AlphaFold3Workload() if all_blocks else ShallowAlphaFold3()
    axes = {"preset": preset, "tokens": tokens, "precision": precision}
    config = workload.configure(axes | {"entry": SYNTHETIC, "backend": "triton"})
    launches: list[Launch] = []
    with assume_architecture(architecture), FakeTensorMode(), shortened():
        program = workload.build_abstract(config)
        with watch_launches(_recorder(launches)):
            for phase in program.phases:
                program.run(phase)
    return launches


def single_launches(
    architecture: str, tokens: int, *, preset: str = "full", precision: str = "bfloat16"
) -> list[Launch]:
    """Return the launches of each operator at the shapes of the workload ``operators``.

    See `step_launches` for the arguments and the result.
    """
    workload = OperatorsWorkload()
    axes = {"preset": preset, "precision": precision, "tokens": tokens}
    names = [name for name, operator in OPERATORS.items() if "triton" in operator.kernels]
    launches: list[Launch] = []
    with assume_architecture(architecture):
        # Operators that are parts of others have no case of their own.
        for name in (name for name in names if name in CALLS):
            operator, call, table = workload.parts(workload.configure(axes | {"operator": name}))
            launches += map(portable, call_launches(operator, table, call))
    return launches


def _recorder(launches: list[Launch]) -> Callable[[Launch], None]:
    def keep(launch: Launch) -> None:
        if launch.kernel not in (COPY, PRODUCT):
            launches.append(portable(launch))

    return keep


def distinct(launches: Iterable[Launch], architecture: str) -> dict[str, Launch]:
    """Return the first launch of each variant that Triton compiles, by the variant's key."""
    by_variant: dict[str, Launch] = {}
    with offline(architecture):
        for launch in launches:
            by_variant.setdefault(variant(launch), launch)
    return by_variant
