"""Programs of the pipeline workload: batches built in the step, by stages, or ahead of it."""

import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep
from typing import Any

import torch
from torch import Tensor

from refsys.batch import Batch, PackedBatch
from refsys.data.batches.construction import BatchConstruction, ExampleSpec, stages_of
from refsys.data.batches.loader import prefetch_steps
from refsys.data.batches.upload import Upload
from refsys.data.store.store import Example
from refsys.errors import CapacityError
from refsys.streams import Draw
from workloads.conventional import (
    Alignments,
    Files,
    Token,
    features,
    parse_alignment,
    parse_structure,
    read_cache,
    tokenize,
    write_cache,
)
from workloads.errors import UnsupportedError
from workloads.workload import ExecutionContext, Program

PATH_HELP = (
    "prepared records; or files parsed in each step, as objects, into one-hot features in "
    "float32; or such objects out of a gzip-compressed cache"
)


class HostProgram(Program):
    """Program that builds a step's tensors on the host, then moves them to the device.

    Attributes:
        step: Number of the last step that was built.
        device: Device that the tensors are moved to.
    """

    forward_phases = ()

    def __init__(self, device: torch.device) -> None:
        self.step = -1
        self.device = device

    @abstractmethod
    def batch(self) -> Mapping[str, Tensor]:
        """Return the tensors of the step."""

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {"inputs": list(self.batch().values())}


class PipelineProgram(HostProgram):
    """One batch a step, from records that are in the page cache after the first step.

    A phase is one stage for all examples of the step.
    """

    def __init__(self, example: Example, spec: ExampleSpec, device: torch.device) -> None:
        super().__init__(device)
        self._first, *_ = stages_of(spec)
        self.phases = (*stages_of(spec), "stack", "to_device")
        self._example, self._spec = example, spec
        self._constructions: list[BatchConstruction] = []
        self._batch: Batch | None = None

    def run(self, phase: str) -> None:
        """See `Program`."""
        if phase == self._first:
            self.step += 1
            self._batch = None
            self._constructions = [
                BatchConstruction(self._example, self._spec, self.step, index)
                for index in self._spec.indices
            ]
        if phase == "stack":
            self._batch = Batch.stacked(
                [construction.batch for construction in self._constructions if construction.batch]
            )
            self._constructions = []
        elif phase == "to_device":
            assert self._batch is not None, "the stages come first"
            self._batch = self._batch.to(self.device)
        else:
            try:
                for construction in self._constructions:
                    construction.run(phase)
            except CapacityError as error:
                raise UnsupportedError(str(error)) from None

    def batch(self) -> Mapping[str, Tensor]:
        """See `HostProgram`."""
        return self._batch or {}

    def outcome(self) -> dict[str, float]:
        """See `Program`; sizes of the last batch without its padding, and all its bytes."""
        if self._batch is None:
            return {}
        sizes = {
            name: float(self._batch[f"{name}_mask"].sum(-1).double().mean())
            for name in ("token", "alignment_row", "atom")
        }
        return sizes | {"bytes": float(self._batch.nbytes)}


class ColdPipelineProgram(PipelineProgram):
    """`PipelineProgram` with the records evicted from memory and opened again before each step.

    The eviction is a phase of its own, ``evict``, whose time counts for nothing.
    """

    def __init__(
        self, reopen: Callable[[], Example], spec: ExampleSpec, device: torch.device
    ) -> None:
        super().__init__(reopen(), spec, device)
        self._reopen = reopen
        self.phases = ("evict", "open", *self.phases)

    def run(self, phase: str) -> None:
        """See `Program`."""
        if phase == "evict":
            evict(self._example.files())
        elif phase == "open":
            self._example = self._reopen()
        else:
            super().run(phase)


def evict(files: Iterable[Path]) -> None:
    """Evict files from the page cache, unless another process writes them."""
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class ConventionalProgram(HostProgram):
    """One crop a step, in the conventional way: see `workloads.conventional`."""

    def __init__(
        self, files: Files, tokens: int, rows: int, setting: ExecutionContext, *, cached: bool
    ) -> None:
        super().__init__(setting.device)
        first = ("load",) if cached else ("parse_structure", "parse_alignment", "tokenize")
        self.phases = (*first, "features", "to_device")
        self._files, self._tokens, self._rows = files, tokens, rows
        self._seed = setting.seed
        self._structure: Any = None
        self._objects: list[Token] = []
        self._alignments: Alignments = {}
        self._tensors: dict[str, Tensor] = {}
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
        phases = {
            "parse_structure": self._parse_structure,
            "parse_alignment": self._parse_alignment,
            "tokenize": self._tokenize,
            "load": self._load,
            "features": self._features,
            "to_device": self._to_device,
        }
        phases[phase]()

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
        self._tensors = features(self._objects, self._alignments, self._tokens, self._rows, seed)

    def _to_device(self) -> None:
        self._tensors = {name: tensor.to(self.device) for name, tensor in self._tensors.items()}

    def batch(self) -> Mapping[str, Tensor]:
        """See `HostProgram`."""
        return self._tensors

    def outcome(self) -> dict[str, float]:
        """See `Program`."""
        if not self._tensors:
            return {}
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())
        atoms = len(self._tensors["atom_to_token"])
        return {"token": float(self._tokens), "atom": float(atoms), "bytes": float(nbytes)}


class LoaderProgram(Program):
    """Another program's tensors, built ahead by loader processes while a device is busy.

    A sleep stands in for the device, so that its wait for data depends on the host alone. Close it
    at the end, if the process goes on.
    """

    phases = ("wait", "to_device", "device")
    forward_phases = ()

    def __init__(self, program: HostProgram, workers: int, device_s: float) -> None:
        self._program, self._device_s = program, device_s
        self._upload = Upload(program.device)
        self._steps = prefetch_steps(
            self._make, count(), workers, take=self._take, errors=UnsupportedError
        )
        self._sent: Callable[[], Mapping[str, Tensor]] = dict
        self._tensors: Mapping[str, Tensor] = {}

    def run(self, phase: str) -> None:
        """See `Program`."""
        if phase == "wait":
            self._sent = next(self._steps)
        elif phase == "to_device":
            self._tensors = self._sent()
        else:
            sleep(self._device_s)

    def close(self) -> None:
        """End the loader processes."""
        self._steps.close()

    def tensors(self) -> Mapping[str, Iterable[Tensor]]:
        """See `Program`."""
        return {"inputs": list(self._tensors.values())}

    def outcome(self) -> dict[str, float]:
        """See `Program`."""
        return {"bytes": float(sum(tensor.nbytes for tensor in self._tensors.values()))}

    def _take(self, loaded: PackedBatch | dict[str, Tensor]) -> Callable[[], Mapping[str, Tensor]]:
        """Send a step's tensors; return a function that returns them once they have arrived."""
        if isinstance(loaded, PackedBatch):
            return self._upload.send(loaded).arrived
        device = self._program.device
        return lambda: {name: tensor.to(device) for name, tensor in loaded.items()}

    def _make(self, step: int) -> PackedBatch | dict[str, Tensor]:
        """Return the program's tensors of a step, on the host; runs in a loader process."""
        self._program.step = step - 1
        for phase in self._program.phases[:-1]:
            self._program.run(phase)
        batch = self._program.batch()
        return batch.packed() if isinstance(batch, Batch) else dict(batch)
