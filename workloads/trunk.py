"""The AlphaFold 3 trunk in training: input embedding, MSA module, Pairformer, heads."""

from collections.abc import Callable

import torch

from refsys.batch import Batch
from refsys.data.examples import BONDS_PER_TOKEN, ExampleSpec
from refsys.data.synthetic import synthetic_batch
from refsys.precision import precision
from refsys.training_step import Training, TrunkTraining
from workloads.structure_training import (
    AXES,
    StructureTraining,
    model_config,
    spec_options,
    training_options,
)
from workloads.workload import Config


class TrunkWorkload(StructureTraining):
    """Cases of trunk training: each step draws its own crop and alignment rows."""

    name = "alphafold3-trunk"
    summary = "the AlphaFold 3 trunk in training: MSA module, Pairformer, distogram"
    axes = AXES

    def training(self, config: Config, seed: int, device: torch.device | None = None) -> Training:
        """See `StructureTraining`."""
        table = precision(str(config["precision"]))
        return TrunkTraining(model_config(config), table, **training_options(config, seed, device))

    def placeholder(self, config: Config) -> Batch:
        """See `StructureTraining`."""
        tokens = int(config["tokens"])
        return Batch.empty(
            batch=int(config["batch"]),
            token=tokens,
            alignment_row=int(config["alignment_rows"]),
            bond=tokens * BONDS_PER_TOKEN,
        )

    def spec(self, config: Config, seed: int) -> ExampleSpec:
        """See `StructureTraining`."""
        return ExampleSpec(**spec_options(config, seed))

    def synthetic(self, config: Config, seed: int) -> Callable[[int], Batch]:
        """See `StructureTraining`."""
        spec = self.spec(config, seed)
        return lambda step: synthetic_batch(spec, step)
