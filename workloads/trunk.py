"""The AlphaFold 3 trunk in training: input embedding, MSA module, Pairformer, heads."""

from collections.abc import Callable
from pathlib import Path

import torch

from refsys.batch import Batch
from refsys.data.examples import BONDS_PER_TOKEN, Examples
from refsys.data.store import Example, Store
from refsys.data.synthetic import synthetic_batch
from refsys.errors import DataError
from refsys.precision import precision
from refsys.training_step import Training, TrunkTraining
from workloads.errors import UnsupportedError
from workloads.structure_training import (
    AXES,
    SYNTHETIC,
    StructureTraining,
    example_spec,
    model_config,
    training_options,
)
from workloads.workload import Config, Setting


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

    def inputs(self, config: Config, store: Path) -> dict[str, str]:
        """See `Workload`."""
        if config["entry"] == SYNTHETIC:
            return {}
        example = _open(config, store)
        try:
            example.verify()
        except DataError as error:
            raise UnsupportedError(f"{error}; run 'foldperf prepare' again") from None
        return {f"{example.entry} {what}": name for what, name in example.records().items()}

    def source(self, config: Config, setting: Setting) -> Callable[[int], Batch]:
        """See `StructureTraining`."""
        spec = example_spec(config, setting.seed)
        if config["entry"] == SYNTHETIC:
            return lambda step: synthetic_batch(spec, step)
        example = _open(config, setting.store)
        if example.tokens < spec.tokens:
            raise UnsupportedError(
                f"{example.entry} has {example.tokens} tokens, and a crop of {spec.tokens} "
                f"would measure padding; take a longer structure, or entry={SYNTHETIC}"
            )
        return Examples(Store(setting.store), [example.entry], spec).__getitem__


def _open(config: Config, store: Path) -> Example:
    try:
        return Store(store).open(str(config["entry"]))
    except DataError as error:
        raise UnsupportedError(str(error)) from None
