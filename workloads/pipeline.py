"""The host's pipeline alone: from prepared records to a batch on the device."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from refsys.batch import ALPHAFOLD3_FIELDS, ATOM_WINDOW, Batch
from refsys.config import PRESETS, preset
from refsys.data.batches.atom_features import LIGAND_BONDS
from refsys.data.batches.construction import BONDS_PER_TOKEN, ExampleSpec
from refsys.data.batches.crop import CROPS
from refsys.data.store.store import Store
from refsys.options import option
from workloads.conventional import CACHED, COLD, PATHS, PREPARED, files_of
from workloads.errors import UnsupportedError, WorkloadError
from workloads.host_programs import (
    PATH_HELP,
    ColdPipelineProgram,
    ConventionalProgram,
    HostProgram,
    LoaderProgram,
    PipelineProgram,
)
from workloads.structure_training import entry_inputs, open_entry
from workloads.workload import ExecutionContext, Program, StaticCosts, Value, Workload

# Proteins have 8 atoms a token, nucleic acids up to 23.
_ATOMS_PER_TOKEN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineCase:
    """Configuration of a case."""

    preset: str = option("tiny", "model whose sizes the batch has", choices=tuple(PRESETS))
    tokens: int = option(0, "crop; 0 is the preset's own", minimum=0)
    alignment_rows: int = option(0, "MSA depth; 0 is the preset's own", minimum=0)
    entry: str = option("8vkf", "prepared structure", titled=True)
    crop: str = option("contiguous", "kind of crop", choices=CROPS)
    batch: int = option(1, "examples in a step", minimum=1)
    cycles: int = option(1, "recycling iterations, each with MSA rows of its own", minimum=1)
    atoms: int = option(0, f"size of the atom axis; 0 is {_ATOMS_PER_TOKEN} a token", minimum=0)
    path: str = option(
        PREPARED,
        f"{PATH_HELP}; or records that are put out of memory before each step",
        choices=(*PATHS, COLD),
    )
    workers: int = option(
        0,
        "loader processes that build batches ahead; 0 builds them in the step, in stages",
        minimum=0,
    )
    device_ms: int = option(
        0,
        "milliseconds of a device's step, of which a sleep stands in for the device",
        minimum=0,
    )


class PipelineWorkload(Workload[PipelineCase]):
    """Cases of batch construction for the full model: each step samples, crops and gathers anew."""

    name = "pipeline"
    summary = "the host's pipeline: crop, gather, pad, and the move to the device"
    configuration = PipelineCase
    data_parallel = True
    selections: ClassVar = {
        "timing": ({"tokens": 64, "alignment_rows": 64, "batch": 4},),
        "quick": ({"tokens": [64, 128]},),
    }

    def configure(self, values: Mapping[str, object]) -> PipelineCase:
        """See `Workload`; sizes of 0 become the preset's own."""
        config = super().configure(values)
        conventional = config.path not in {PREPARED, COLD}
        if conventional and (config.batch, config.crop) != (1, "contiguous"):
            raise WorkloadError(f"path={config.path} allows one contiguous crop in a step")
        if config.atoms % ATOM_WINDOW:
            window = ATOM_WINDOW
            raise WorkloadError(f"atoms={config.atoms} is not a multiple of the window, {window}")
        model = preset(config.preset)
        return replace(
            config,
            tokens=config.tokens or model.tokens,
            alignment_rows=config.alignment_rows or model.alignment_rows,
        )

    def entries(self, config: PipelineCase) -> frozenset[str]:
        """See `Workload`."""
        return frozenset({config.entry})

    def inputs(self, config: PipelineCase, store: Path) -> dict[str, str]:
        """See `Workload`."""
        return entry_inputs(config.entry, store)

    def labels(self, config: PipelineCase) -> dict[str, Value]:
        """See `Workload`."""
        usual = self.values(self.configure({"preset": config.preset}))
        unusual = self.chosen(config, usual, ("preset", "tokens", "entry"), titled=False)
        return {
            "tokens": config.tokens,
            "series": f"{self.name} {config.preset}",
            "variant": ", ".join(unusual),
            "synthetic": False,
        }

    def static_costs(self, config: PipelineCase) -> StaticCosts:
        """See `Workload`: no parameters and no FLOPs; the batch is written once."""
        return StaticCosts(
            parameters=0,
            components={},
            forward_flops=0,
            forward_flops_by_component={},
            step_flops=0,
            arithmetic="none",
            minimum_bytes=_placeholder(config, torch.device("meta")).nbytes,
            notes=("the host reads, crops and gathers; nothing is multiplied",),
        )

    def build(self, config: PipelineCase, setting: ExecutionContext) -> Program:
        """See `Workload`."""
        example = open_entry(config.entry, setting.store)
        tokens, rows = config.tokens, config.alignment_rows
        if example.tokens < tokens:
            raise UnsupportedError(
                f"{example.entry} has {example.tokens} tokens, and a crop of {tokens} would "
                "measure padding; take a longer structure"
            )
        whole = ExampleSpec(
            tokens=tokens,
            alignment_rows=rows,
            batch=config.batch * setting.ranks,
            crop=config.crop,
            seed=setting.seed,
            whole=True,
            cycles=config.cycles,
            atoms=_atoms(config),
            templates=preset(config.preset).templates,
        )
        spec = whole.share(setting.rank, setting.ranks)
        example.verify()
        program: HostProgram = PipelineProgram(example, spec, setting.device)
        if config.path == COLD:
            store = Store(setting.store)
            program = ColdPipelineProgram(lambda: store.open(example.entry), spec, setting.device)
        elif config.path != PREPARED:
            files, cached = files_of(example.entry), config.path == CACHED
            program = ConventionalProgram(files, tokens, rows, setting, cached=cached)
        workers, seconds = config.workers, config.device_ms / 1e3
        return LoaderProgram(program, workers, seconds) if workers or seconds else program

    def build_abstract(self, config: PipelineCase) -> "AbstractProgram":
        """See `Workload`: the batch itself, whose size is known without the inputs.

        Raises:
            UnsupportedError: a conventional path, whose tensors are built from parsed files.
        """
        if config.path not in {PREPARED, COLD}:
            raise UnsupportedError("the conventional path has no costs without its files")
        return AbstractProgram(_placeholder(config, None))


class AbstractProgram(Program):
    """Existing batch that is moved to the device."""

    phases = ("to_device",)
    forward_phases = ()

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def run(self, phase: str) -> None:
        """See `Program`: its memory is what counts."""

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {"inputs": list(self._batch.values())}


def _atoms(config: PipelineCase) -> int:
    """The atom axis, in whole windows."""
    return config.atoms or -(-config.tokens * _ATOMS_PER_TOKEN // ATOM_WINDOW) * ATOM_WINDOW


def _placeholder(config: PipelineCase, device: torch.device | None) -> Batch:
    tokens = config.tokens
    with torch.device(device or torch.get_default_device()):
        return Batch.empty(
            ALPHAFOLD3_FIELDS,
            batch=config.batch,
            token=tokens,
            alignment_row=config.alignment_rows,
            cycle=config.cycles,
            bond=tokens * BONDS_PER_TOKEN,
            atom=_atoms(config),
            template=preset(config.preset).templates,
            ligand_bond=LIGAND_BONDS,
        )
