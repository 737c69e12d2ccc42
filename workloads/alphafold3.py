"""AlphaFold 3 whole in training: trunk, rollout, judgement, many noised copies, all losses."""

from collections.abc import Callable
from typing import Any

import torch

from refsys.alphafold3_step import STAGES, AlphaFold3Training
from refsys.batch import ALPHAFOLD3_FIELDS, Batch
from refsys.data.examples import BONDS_PER_TOKEN
from refsys.data.synthetic import ATOMS_PER_TOKEN, synthetic_alphafold3_batch
from refsys.model.atom_attention import QUERIES
from refsys.precision import precision
from refsys.training_step import Training
from workloads.errors import UnsupportedError
from workloads.structure_training import (
    AXES,
    SYNTHETIC,
    StructureTraining,
    example_spec,
    model_config,
    training_options,
)
from workloads.workload import Axis, Config, Setting

# Room for polymer-ligand bonds in a batch.
_LIGAND_BONDS = 32


class AlphaFold3Workload(StructureTraining):
    """Cases of training the whole model."""

    name = "alphafold3"
    summary = "AlphaFold 3 in training: trunk, diffusion module, confidence head, all losses"
    axes = (
        *(axis for axis in AXES if axis.name != "entry"),
        Axis(
            name="entry",
            default=SYNTHETIC,
            meaning="structure to train on",
            choices=(SYNTHETIC,),
            titled=True,
        ),
        Axis(name="samples", default=0, meaning="noised copies; 0 is the preset's own", minimum=0),
        Axis(
            name="stage", default="initial", meaning="weights of the losses", choices=tuple(STAGES)
        ),
    )

    def configure(self, values: Any) -> Config:
        """See `Workload`; sizes of 0 become the preset's own."""
        config = super().configure(values)
        return config | {"samples": config["samples"] or model_config(config).samples}

    def notes(self, config: Config) -> tuple[str, ...]:
        """See `StructureTraining`."""
        return (
            *super().notes(config),
            f"{ATOMS_PER_TOKEN} atoms a token, {model_config(config).templates} templates",
            "the rollout of 20 steps is not differentiated",
        )

    def training(self, config: Config, seed: int, device: torch.device | None = None) -> Training:
        """See `StructureTraining`."""
        return AlphaFold3Training(
            model_config(config),
            precision(str(config["precision"])),
            stage=STAGES[str(config["stage"])],
            samples=int(config["samples"]),
            **training_options(config, seed, device),
        )

    def placeholder(self, config: Config) -> Batch:
        """See `StructureTraining`."""
        tokens = int(config["tokens"])
        return Batch.empty(
            ALPHAFOLD3_FIELDS,
            batch=int(config["batch"]),
            token=tokens,
            alignment_row=int(config["alignment_rows"]),
            bond=tokens * BONDS_PER_TOKEN,
            atom=-(-tokens * ATOMS_PER_TOKEN // QUERIES) * QUERIES,
            template=model_config(config).templates,
            ligand_bond=_LIGAND_BONDS,
        )

    def source(self, config: Config, setting: Setting) -> Callable[[int], Batch]:
        """See `StructureTraining`."""
        if config["entry"] != SYNTHETIC:
            raise UnsupportedError(
                f"entry={config['entry']}: only {SYNTHETIC} inputs have atoms yet"
            )
        spec = example_spec(config, setting.seed)
        sizes = {"templates": model_config(config).templates, "ligand_bonds": _LIGAND_BONDS}
        return lambda step: synthetic_alphafold3_batch(spec, step, **sizes)
