"""The AlphaFold 3 trunk in training: input embedding, MSA module, Pairformer, heads."""

from collections.abc import Callable
from typing import ClassVar

import torch

from refsys.batch import Batch
from refsys.config import PRESETS
from refsys.data.batches.construction import BONDS_PER_TOKEN, ExampleSpec
from refsys.data.batches.synthetic import synthetic_batch
from refsys.precision import precision
from refsys.training.step import Training, TrunkTraining
from workloads.structure_training import (
    AXES,
    SYNTHETIC,
    StructureTraining,
    model_config,
    spec_options,
    training_options,
)
from workloads.workload import Config, Setting

_BFLOAT16 = {"precision": "bfloat16", "entry": SYNTHETIC}


class TrunkWorkload(StructureTraining):
    """Cases of trunk training: each step draws its own crop and alignment rows."""

    name = "alphafold3-trunk"
    summary = "the AlphaFold 3 trunk in training: MSA module, Pairformer, distogram"
    axes = AXES
    selections: ClassVar = {
        "exact": (
            {**_BFLOAT16, "preset": list(PRESETS)},
            {**_BFLOAT16, "preset": "mini", "cycles": 2},
            {**_BFLOAT16, "preset": "mini", "chunk_rows": 64},
            {**_BFLOAT16, "preset": "small", "checkpointing": False},
        ),
        "timing": ({"entry": SYNTHETIC, "tokens": 32},),
        "quick": ({"entry": "8vkf", "tokens": [32, 64, 96]},),
    }

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
            cycle=int(config["cycles"]),
            bond=tokens * BONDS_PER_TOKEN,
        )

    def spec(self, config: Config, setting: Setting) -> ExampleSpec:
        """See `StructureTraining`."""
        whole = ExampleSpec(**spec_options(config, setting))
        return whole.share(setting.rank, setting.ranks)

    def synthetic(self, config: Config, setting: Setting) -> Callable[[int], Batch]:
        """See `StructureTraining`."""
        spec = self.spec(config, setting)
        return lambda step: synthetic_batch(spec, step)
