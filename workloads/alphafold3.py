"""AlphaFold 3 whole in training: trunk, rollout, judgement, many noised copies, all losses."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from refsys.batch import ALPHAFOLD3_FIELDS, ATOM_WINDOW, Batch
from refsys.data.batches.atom_features import LIGAND_BONDS
from refsys.data.batches.construction import BONDS_PER_TOKEN, ExampleSpec
from refsys.data.batches.synthetic import ATOMS_PER_TOKEN, synthetic_alphafold3_batch
from refsys.precision import precision
from refsys.training.alphafold3_step import STAGES, AlphaFold3Training
from refsys.training.step import Training
from workloads.conventional import CACHED, PREPARED, files_of
from workloads.errors import WorkloadError
from workloads.host_programs import PATH, ConventionalProgram
from workloads.structure_training import (
    AXES,
    SYNTHETIC,
    Source,
    StructureTraining,
    model_config,
    spec_options,
    training_options,
)
from workloads.workload import Axis, Config, Setting

# Proteins have 8 atoms a token, nucleic acids up to 23; most complexes stay below this.
_REAL_ATOMS_PER_TOKEN = 12


class AlphaFold3Workload(StructureTraining):
    """Cases of training the whole model."""

    name = "alphafold3"
    device_check = "training step"
    summary = "AlphaFold 3 in training: trunk, diffusion module, confidence head, all losses"
    axes = (
        *AXES,
        Axis(name="samples", default=0, meaning="noised copies; 0 is the preset's own", minimum=0),
        Axis(
            name="chunk_samples",
            default=0,
            meaning="noised copies denoised at once; 0 is all",
            minimum=0,
        ),
        Axis(
            name="atoms",
            default=0,
            meaning="size of the atom axis; 0 is 8 a token for synthetic inputs, 12 for real ones",
            minimum=0,
        ),
        PATH,
        Axis(
            name="stage", default="initial", meaning="weights of the losses", choices=tuple(STAGES)
        ),
    )

    selections: ClassVar = {
        "exact": ({"preset": "tiny", "precision": "bfloat16", "entry": SYNTHETIC},),
        "timing": ({"entry": SYNTHETIC, "tokens": 16, "samples": 4},),
        "quick": ({"entry": "8vkf", "tokens": [32, 64]},),
    }

    def configure(self, values: Any) -> Config:
        """See `Workload`; sizes of 0 become the preset's own."""
        config = super().configure(values)
        each = ATOMS_PER_TOKEN if config["entry"] == SYNTHETIC else _REAL_ATOMS_PER_TOKEN
        atoms = -(-int(config["tokens"]) * each // ATOM_WINDOW) * ATOM_WINDOW
        if int(config["atoms"]) % ATOM_WINDOW:
            raise WorkloadError(
                f"atoms={config['atoms']} is not a multiple of the window, {ATOM_WINDOW}"
            )
        if config["path"] != PREPARED and config["entry"] == SYNTHETIC:
            raise WorkloadError(f"path={config['path']} parses files; entry={SYNTHETIC} has none")
        return config | {
            "samples": config["samples"] or model_config(config).samples,
            "atoms": config["atoms"] or atoms,
        }

    def notes(self, config: Config) -> tuple[str, ...]:
        """See `StructureTraining`."""
        return (
            *super().notes(config),
            f"{config['atoms']} atoms, {model_config(config).templates} templates",
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
            cycle=int(config["cycles"]),
            bond=tokens * BONDS_PER_TOKEN,
            atom=int(config["atoms"]),
            template=model_config(config).templates,
            ligand_bond=LIGAND_BONDS,
        )

    def spec(self, config: Config, setting: Setting) -> ExampleSpec:
        """See `StructureTraining`."""
        templates = model_config(config).templates
        options = spec_options(config, setting)
        whole = ExampleSpec(**options, whole=True, atoms=int(config["atoms"]), templates=templates)
        return whole.share(setting.rank, setting.ranks)

    def source(self, config: Config, setting: Setting) -> Source:
        """See `StructureTraining`; the conventional path is gone besides, for its time.

        What it makes is no batch of this model: its crop and rows are as large, its encoding is
        one-hot.
        """
        source = super().source(config, setting)
        if config["path"] == PREPARED:
            return source
        files, cached = files_of(str(config["entry"])), config["path"] == CACHED
        sizes = int(config["tokens"]), int(config["alignment_rows"])
        program = ConventionalProgram(files, *sizes, setting, cached=cached)

        def batch(step: int) -> Batch:
            for phase in program.phases:
                program.run(phase)
            return source.batch(step)

        return source._replace(batch=batch)

    def synthetic(self, config: Config, setting: Setting) -> Callable[[int], Batch]:
        """See `StructureTraining`."""
        spec = self.spec(config, setting)
        return lambda step: synthetic_alphafold3_batch(spec, step)
