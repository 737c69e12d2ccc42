"""The host's pipeline alone: from prepared records to a batch on the device."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from refsys.batch import ALPHAFOLD3_FIELDS, Batch, PackedBatch
from refsys.config import PRESETS, preset
from refsys.data.atom_features import LIGAND_BONDS
from refsys.data.crop import CROPS
from refsys.data.examples import BONDS_PER_TOKEN, ExampleSpec, Making, stages_of
from refsys.data.store import Example
from refsys.errors import CapacityError
from refsys.model.atom_attention import QUERIES
from refsys.streams import Draw
from workloads.conventional import (
    Alignments,
    Files,
    Token,
    features,
    files_of,
    parse_alignment,
    parse_structure,
    read_cache,
    tokenize,
    write_cache,
)
from workloads.errors import UnsupportedError, WorkloadError
from workloads.structure_training import entry_inputs, open_entry
from workloads.workload import Axis, Config, Facts, Program, Setting, Value, Workload

# Proteins have 8 atoms a token, nucleic acids up to 23.
_ATOMS_PER_TOKEN = 12
# Where a batch comes from: see the axis `path`.
PREPARED, PARSED, CACHED = "prepared", "conventional", "conventional-cached"


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
        Axis(
            name="atoms",
            default=0,
            meaning=f"size of the atom axis; 0 is {_ATOMS_PER_TOKEN} a token",
            minimum=0,
        ),
        Axis(
            name="path",
            default=PREPARED,
            meaning="prepared records; or files parsed in each step, as objects, into one-hot "
            "features in float32; or such objects out of a gzip-compressed cache",
            choices=(PREPARED, PARSED, CACHED),
        ),
        Axis(
            name="workers",
            default=0,
            meaning="loader processes that make batches ahead; 0 makes them in the step, in stages",
            minimum=0,
        ),
        Axis(
            name="device_ms",
            default=0,
            meaning="milliseconds of a device's step, of which a sleep stands in for the device",
            minimum=0,
        ),
    )
    data_parallel = True
    selections: ClassVar = {
        "timing": ({"tokens": 64, "alignment_rows": 64, "batch": 4},),
        "quick": ({"tokens": [64, 128]},),
    }

    def configure(self, values: Mapping[str, object]) -> Config:
        """See `Workload`; sizes of 0 become the preset's own."""
        config = super().configure(values)
        if config["path"] != PREPARED and (config["batch"], config["crop"]) != (1, "contiguous"):
            raise WorkloadError(f"path={config['path']} makes one contiguous crop in a step")
        if int(config["atoms"]) % QUERIES:
            raise WorkloadError(
                f"atoms={config['atoms']} is not a multiple of the window, {QUERIES}"
            )
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

    def build(self, config: Config, setting: Setting) -> Program:
        """See `Workload`."""
        example = open_entry(str(config["entry"]), setting.store)
        tokens, batch = int(config["tokens"]), int(config["batch"])
        rows = int(config["alignment_rows"])
        if example.tokens < tokens:
            raise UnsupportedError(
                f"{example.entry} has {example.tokens} tokens, and a crop of {tokens} would "
                "measure padding; take a longer structure"
            )
        spec = ExampleSpec(
            tokens=tokens,
            alignment_rows=rows,
            batch=batch,
            first=setting.rank * batch,
            crop=str(config["crop"]),
            seed=setting.seed,
            whole=True,
            atoms=_atoms(config),
            templates=preset(str(config["preset"])).templates,
        )
        example.verify()
        program: HostProgram = PipelineProgram(example, spec, setting.device)
        if config["path"] != PREPARED:
            files, cached = files_of(example.entry), config["path"] == CACHED
            program = ConventionalProgram(files, tokens, rows, setting, cached=cached)
        workers, seconds = int(config["workers"]), int(config["device_ms"]) / 1e3
        return LoaderProgram(program, workers, seconds) if workers or seconds else program

    def build_abstract(self, config: Config) -> "AbstractProgram":
        """See `Workload`: the batch itself, whose bytes are what is known without the inputs.

        Raises:
            UnsupportedError: a conventional path, which makes its tensors out of objects.
        """
        if config["path"] != PREPARED:
            raise UnsupportedError("nothing is known of the conventional path without its files")
        return AbstractProgram(_placeholder(config, None))


class HostProgram(Program):
    """Makes a step's tensors on the host, then moves them to the device.

    Attributes:
        step: Which step was made; the next run makes the one after it.
        device: Where to.
    """

    forward_phases = ()

    def __init__(self, device: torch.device) -> None:
        self.step = -1
        self.device = device

    @abstractmethod
    def made(self) -> Mapping[str, Tensor]:
        """The tensors of the step."""

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {"inputs": list(self.made().values())}


class PipelineProgram(HostProgram):
    """A batch a step, out of records that are in the page cache after the first.

    A phase is a stage of all the step's examples.
    """

    def __init__(self, example: Example, spec: ExampleSpec, device: torch.device) -> None:
        super().__init__(device)
        self.phases = (*stages_of(spec), "stack", "to_device")
        self._example, self._spec = example, spec
        self._making: list[Making] = []
        self._batch: Batch | None = None

    def run(self, phase: str) -> None:
        """See `Program`."""
        if phase == self.phases[0]:
            self.step += 1
            self._batch = None
            self._making = [
                Making(self._example, self._spec, self.step, place) for place in self._spec.places
            ]
        if phase == "stack":
            self._batch = Batch.stacked([each.batch for each in self._making if each.batch])
            self._making = []
        elif phase == "to_device":
            assert self._batch is not None, "the stages come first"
            self._batch = self._batch.to(self.device)
        else:
            try:
                for each in self._making:
                    each.run(phase)
            except CapacityError as error:
                raise UnsupportedError(str(error)) from None

    def made(self) -> Mapping[str, Tensor]:
        """See `HostProgram`."""
        return self._batch or {}

    def outcome(self) -> dict[str, float]:
        """See `Program`: what the last batch holds, without its padding, and all its bytes."""
        if self._batch is None:
            return {}
        sizes = {
            name: float(self._batch[f"{name}_mask"].sum() / len(self._batch["example"]))
            for name in ("token", "alignment_row", "atom")
        }
        return sizes | {"bytes": float(self._batch.nbytes)}


class AbstractProgram(Program):
    """A batch that is there already, moved to the device."""

    phases = ("to_device",)
    forward_phases = ()

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def run(self, phase: str) -> None:
        """See `Program`: its memory is what counts."""

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {"inputs": list(self._batch.values())}


class ConventionalProgram(HostProgram):
    """A crop a step, in the conventional way: see `workloads.conventional`."""

    def __init__(
        self, files: Files, tokens: int, rows: int, setting: Setting, *, cached: bool
    ) -> None:
        super().__init__(setting.device)
        first = ("load",) if cached else ("parse_structure", "parse_alignment", "tokenize")
        self.phases = (*first, "features", "to_device")
        self._files, self._tokens, self._rows = files, tokens, rows
        self._seed = setting.seed
        self._structure: Any = None
        self._objects: list[Token] = []
        self._alignments: Alignments = {}
        self._made: dict[str, Tensor] = {}
        self._folder: TemporaryDirectory[str] | None = None
        if cached:
            self._folder = TemporaryDirectory(prefix="foldperf-cache-")
            for phase in ("parse_structure", "parse_alignment", "tokenize"):
                self.run(phase)
            write_cache(self._cache, self._objects, self._alignments)

    @property
    def _cache(self) -> Path:
        assert self._folder is not None, "there is a cache"
        return Path(self._folder.name) / "entry.gz"

    def run(self, phase: str) -> None:
        """See `Program`."""
        getattr(self, f"_{phase}")()

    def _parse_structure(self) -> None:
        self._structure = parse_structure(self._files.structure)

    def _parse_alignment(self) -> None:
        files = self._files.alignments
        self._alignments = {chain: parse_alignment(path) for chain, path in files.items()}

    def _tokenize(self) -> None:
        self._objects, self._structure = tokenize(self._structure), None

    def _load(self) -> None:
        self._objects, self._alignments = read_cache(self._cache)

    def _features(self) -> None:
        self.step += 1
        seed = Draw(self._seed, "conventional", self.step).below(1 << 32)
        self._made = features(self._objects, self._alignments, self._tokens, self._rows, seed)

    def _to_device(self) -> None:
        self._made = {name: tensor.to(self.device) for name, tensor in self._made.items()}

    def made(self) -> Mapping[str, Tensor]:
        """See `HostProgram`."""
        return self._made

    def outcome(self) -> dict[str, float]:
        """See `Program`."""
        if not self._made:
            return {}
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in self._made.values())
        atoms = len(self._made["atom_to_token"])
        return {"token": float(self._tokens), "atom": float(atoms), "bytes": float(nbytes)}


class LoaderProgram(Program):
    """Another program's tensors, made ahead by loader processes while a device is at work.

    A sleep stands in for the device, so that what it waits for data is the host's alone.
    """

    phases = ("wait", "to_device", "device")
    forward_phases = ()

    def __init__(self, program: HostProgram, workers: int, device_s: float) -> None:
        self._device, self._device_s = program.device, device_s
        loader = DataLoader(
            _Made(program),
            sampler=cast(Any, count()),
            batch_size=None,
            num_workers=workers,
            collate_fn=cast(Any, _as_it_is),
            pin_memory=program.device.type == "cuda",
        )
        self._steps = iter(loader)
        self._loaded: PackedBatch | dict[str, Tensor] = {}
        self._made: dict[str, Tensor] = {}

    def run(self, phase: str) -> None:
        """See `Program`."""
        if phase == "wait":
            made = next(self._steps)
            if isinstance(made, UnsupportedError):
                raise made
            self._loaded = made
        elif phase == "to_device":
            made = self._loaded
            if isinstance(made, PackedBatch):
                self._made = dict(made.to(self._device).unpacked())
            else:
                self._made = {
                    name: tensor.to(self._device, non_blocking=True)
                    for name, tensor in made.items()
                }
        else:
            sleep(self._device_s)

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {"inputs": list(self._made.values())}

    def outcome(self) -> dict[str, float]:
        """See `Program`."""
        return {"bytes": float(sum(tensor.nbytes for tensor in self._made.values()))}


class _Made(Dataset[Any]):
    """The tensors that a program makes in each step, for the loader's processes.

    An error of ours is handed over as a value: raised in a worker, it would arrive as a traceback.
    """

    def __init__(self, program: HostProgram) -> None:
        self._program = program

    def __getitem__(self, step: int) -> Any:
        self._program.step = step - 1
        try:
            for phase in self._program.phases[:-1]:
                self._program.run(phase)
        except UnsupportedError as error:
            return error
        made = self._program.made()
        return made.packed() if isinstance(made, Batch) else dict(made)


def _as_it_is(made: Any) -> Any:
    return made


def _atoms(config: Config) -> int:
    """The atom axis, in whole windows."""
    return int(config["atoms"]) or -(-int(config["tokens"]) * _ATOMS_PER_TOKEN // QUERIES) * QUERIES


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
