"""The host's pipeline alone: from prepared records to a batch on the device."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from refsys.batch import ALPHAFOLD3_FIELDS, Batch
from refsys.config import PRESETS, preset
from refsys.data.atom_features import LIGAND_BONDS
from refsys.data.crop import CROPS
from refsys.data.examples import BONDS_PER_TOKEN, Examples, ExampleSpec
from refsys.data.store import Store
from refsys.errors import CapacityError
from refsys.model.atom_attention import QUERIES
from workloads.errors import UnsupportedError
from workloads.structure_training import entry_inputs, open_entry
from workloads.workload import Axis, Config, Facts, Program, Setting, Value, Workload

# Proteins have 8 atoms a token, nucleic acids up to 23.
_ATOMS_PER_TOKEN = 12


class PipelineWorkload(Workload):
    """Cases of making batches for the whole model: each step draws, crops and gathers its own."""

    name = "pipeline"
    summary = "the host's pipeline: crop, gather, pad, and the move to the device"
    axes = (
        Axis(
            name="preset",
            default="tiny",
            meaning="model whose sizes the batch has",
            choices=tuple(PRESETS),
        ),
        Axis(name="tokens", default=0, meaning="crop; 0 is the preset's own", minimum=0),
        Axis(
            name="alignment_rows",
            default=0,
            meaning="alignment rows; 0 is the preset's own",
            minimum=0,
        ),
        Axis(name="entry", default="8vkf", meaning="prepared structure", titled=True),
        Axis(name="crop", default="contiguous", meaning="kind of crop", choices=CROPS),
        Axis(name="batch", default=1, meaning="examples in a step", minimum=1),
    )
    data_parallel = True
    selections: ClassVar = {
        "timing": ({"tokens": 64, "alignment_rows": 64, "batch": 4},),
        "quick": ({"tokens": [64, 128]},),
    }

    def configure(self, values: Mapping[str, object]) -> Config:
        """See `Workload`; sizes of 0 become the preset's own."""
        config = super().configure(values)
        model = preset(str(config["preset"]))
        return config | {
            "tokens": config["tokens"] or model.tokens,
            "alignment_rows": config["alignment_rows"] or model.alignment_rows,
        }

    def inputs(self, config: Config, store: Path) -> dict[str, str]:
        """See `Workload`."""
        return entry_inputs(str(config["entry"]), store)

    def labels(self, config: Config) -> dict[str, Value]:
        """See `Workload`."""
        usual = self.configure({"preset": config["preset"]})
        told = {"preset", "tokens", "entry"}
        others = [
            f"{axis.name}={config[axis.name]}"
            for axis in self.axes
            if axis.name not in told and config[axis.name] != usual[axis.name]
        ]
        return {
            "tokens": config["tokens"],
            "series": f"{self.name} {config['preset']}",
            "variant": ", ".join(others),
            "synthetic": False,
        }

    def facts(self, config: Config) -> Facts:
        """See `Workload`: no parameters and no FLOPs; the batch is written once."""
        return Facts(
            parameters=0,
            components={},
            forward_flops=0,
            forward_flops_by_component={},
            step_flops=0,
            arithmetic="none",
            minimum_bytes=_placeholder(config, torch.device("meta")).nbytes,
            notes=("the host reads, crops and gathers; nothing is multiplied",),
        )

    def build(self, config: Config, setting: Setting) -> "PipelineProgram":
        """See `Workload`."""
        example = open_entry(str(config["entry"]), setting.store)
        tokens, batch = int(config["tokens"]), int(config["batch"])
        if example.tokens < tokens:
            raise UnsupportedError(
                f"{example.entry} has {example.tokens} tokens, and a crop of {tokens} would "
                "measure padding; take a longer structure"
            )
        spec = ExampleSpec(
            tokens=tokens,
            alignment_rows=int(config["alignment_rows"]),
            batch=batch,
            first=setting.rank * batch,
            crop=str(config["crop"]),
            seed=setting.seed,
            whole=True,
            atoms=_atoms(config),
            templates=preset(str(config["preset"])).templates,
        )
        examples = Examples(Store(setting.store), [example.entry], spec)
        return PipelineProgram(examples, setting.device)

    def build_abstract(self, config: Config) -> "PipelineProgram":
        """See `Workload`: the batch itself, whose bytes are what is known without the inputs."""
        program = PipelineProgram([_placeholder(config, None)], None)
        program.run("data")
        program.phases = ("to_device",)
        return program


class PipelineProgram(Program):
    """A batch a step, out of records that are in the page cache after the first."""

    phases: tuple[str, ...] = ("data", "to_device")
    forward_phases = ()

    def __init__(self, batches: Examples | list[Batch], device: torch.device | None) -> None:
        self._batches, self._device = batches, device
        self._step = -1
        self._batch: Batch | None = None

    def run(self, phase: str) -> None:
        """See `Program`."""
        if phase == "data":
            self._step += 1
            self._batch = None
            try:
                self._batch = self._batches[self._step]
            except CapacityError as error:
                raise UnsupportedError(str(error)) from None
        elif self._device is not None:
            assert self._batch is not None, "the data phase comes first"
            self._batch = self._batch.to(self._device)

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {"inputs": list(self._batch.values()) if self._batch else []}

    def outcome(self) -> dict[str, float]:
        """See `Program`: what the last batch holds, without its padding."""
        if self._batch is None:
            return {}
        return {
            name: float(self._batch[f"{name}_mask"].sum() / len(self._batch["example"]))
            for name in ("token", "alignment_row", "atom")
        }


def _atoms(config: Config) -> int:
    """The atom axis, in whole windows."""
    return -(-int(config["tokens"]) * _ATOMS_PER_TOKEN // QUERIES) * QUERIES


def _placeholder(config: Config, device: torch.device | None) -> Batch:
    tokens = int(config["tokens"])
    with torch.device(device or torch.get_default_device()):
        return Batch.empty(
            ALPHAFOLD3_FIELDS,
            batch=int(config["batch"]),
            token=tokens,
            alignment_row=int(config["alignment_rows"]),
            bond=tokens * BONDS_PER_TOKEN,
            atom=_atoms(config),
            template=preset(str(config["preset"])).templates,
            ligand_bond=LIGAND_BONDS,
        )
