"""Checkpoints of sharded parameters: torch's distributed checkpoints in the format of all others.

`torch.distributed.checkpoint` plans which rank writes or reads what. Its storage is the columns of
`refsys.training.checkpoint`, in which every tensor is whole, so that a checkpoint does not depend
on the number of ranks that wrote it. No file is pickled. The ranks share a file system.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from refsys.data.store.columns import Columns, allocate_columns, write_header, write_values
from refsys.errors import CheckpointError, DataError
from refsys.files import new_folder
from refsys.parallel.parameter_shards import Entry

# Tensors by column and by name, in the order of the model's parameters.
State = Mapping[str, Mapping[str, Tensor]]


class _Extent(NamedTuple):
    """A tensor's elements in a column, from the first one on."""

    column: str
    start: int
    shape: torch.Size
    dtype: torch.dtype


def save_sharded(
    path: Path, kind: str, state: State, facts: Mapping[str, Any], entry: Entry
) -> None:
    """Write a record of sharded tensors; every rank calls it and writes its part.

    Args:
        path: Folder of the record.
        kind: Kind of the record.
        state: Sharded tensors, each as large as on one rank.
        facts: JSON values.
        entry: Sharded model.

    Raises:
        CheckpointError: a rank cannot write.
    """
    ranks = entry.ranks
    new = new_folder(path) if ranks.is_first else nullcontext()
    with _one_error(path, "cannot be written"), new as folder:
        writer = _Writer(folder, kind, _extents(state), facts)
        dcp.save(_flat(state), storage_writer=writer, process_group=ranks.host_group)


def load_sharded(columns: Columns, state: State, entry: Entry) -> None:
    """Read this rank's part of sharded tensors in place; every rank calls it.

    Args:
        columns: Record whose columns are verified here.
        state: Sharded tensors, each as large as on one rank.
        entry: Sharded model.

    Raises:
        CheckpointError: the record is damaged, or of tensors of other sizes.
    """
    with _one_error(columns.path, "cannot be used"):
        reader = _Reader(columns, _extents(state))
        dcp.load(_flat(state), storage_reader=reader, process_group=entry.ranks.host_group)


def _key(column: str, name: str) -> str:
    return f"{column}/{name}"


def _flat(state: State) -> dict[str, Any]:
    return {
        _key(column, name): tensor
        for column, tensors in state.items()
        for name, tensor in tensors.items()
    }


def _extents(state: State) -> dict[str, _Extent]:
    extents = {}
    for column, tensors in state.items():
        start = 0
        for name, tensor in tensors.items():
            extents[_key(column, name)] = _Extent(column, start, tensor.shape, tensor.dtype)
            start += tensor.numel()
    return extents


def _lengths(extents: Iterable[_Extent]) -> dict[str, tuple[np.dtype[Any], int]]:
    """Return the dtype and the number of elements of each column."""
    return {
        extent.column: (_numpy_dtype(extent.dtype), extent.start + extent.shape.numel())
        for extent in extents
    }


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype


@contextmanager
def _one_error(path: Path, what: str) -> Iterator[None]:
    """Raise the first rank's failure in place of the report on all ranks."""
    try:
        yield
    except dcp.CheckpointException as report:
        error = next(iter(report.failures.values()))[0]
        raise CheckpointError(f"{path}: {what}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {what}: {error}") from None


class _Writer(dcp.StorageWriter):
    """Storage of a record that all ranks write into."""

    def __init__(
        self,
        folder: Path | None,
        kind: str,
        extents: dict[str, _Extent],
        facts: Mapping[str, Any],
    ) -> None:
        self._folder, self._kind, self._extents, self._facts = folder, kind, extents, facts

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """See `StorageWriter`."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """See `StorageWriter`."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """See `StorageWriter`."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Create the files, on the first rank, and tell every rank where they are."""
        assert self._folder is not None, "the first rank coordinates"
        allocate_columns(self._folder, _lengths(self._extents.values()))
        return [
            SavePlan(plan.items, storage_data=str(self._folder), planner_data=plan.planner_data)
            for plan in plans
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's parts, each an interval of a column."""
        parts: dict[str, list[tuple[int, Any]]] = {}
        written = []
        for item in plan.items:
            extent = self._extents[item.index.fqn]
            assert item.tensor_data is not None, "a checkpoint has tensors alone"
            chunk = item.tensor_data.chunk
            assert chunk.sizes[1:] == extent.shape[1:], "tensors are divided along their first axis"
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            values = tensor.detach().cpu().contiguous().numpy()
            start = extent.start + chunk.offsets[0] * prod(extent.shape[1:])
            parts.setdefault(extent.column, []).append((start, values))
            written.append(WriteResult(item.index, values.nbytes, None))
        for column, intervals in parts.items():
            write_values(Path(plan.storage_data), column, intervals)
        done: Future[list[WriteResult]] = Future()
        done.set_result(written)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the header, on the first rank, once all ranks have written."""
        assert self._folder is not None, "the first rank coordinates"
        write_header(self._folder, self._kind, _lengths(self._extents.values()), self._facts)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """See `StorageWriter`."""
        return True


class _Reader(dcp.StorageReader):
    """Storage of a record in which every tensor is whole."""

    def __init__(self, columns: Columns, extents: dict[str, _Extent]) -> None:
        self._columns, self._extents = columns, extents

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """See `StorageReader`."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the metadata of tensors of which each is one chunk."""
        return Metadata(
            {
                key: TensorStorageMetadata(
                    TensorProperties(dtype=extent.dtype),
                    extent.shape,
                    [ChunkStorageMetadata(torch.Size([0] * len(extent.shape)), extent.shape)],
                )
                for key, extent in self._extents.items()
            }
        )

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """See `StorageReader`."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """See `StorageReader`."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Verify the record, on the first rank alone."""
        self._columns.verify()
        for name, (dtype, length) in _lengths(self._extents.values()).items():
            column = self._columns[name]
            if column.dtype != dtype or column.shape != (length,):
                raise DataError(
                    f"has {column.dtype} {column.size} {name}, this model {dtype} {length}"
                )
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read this rank's parts."""
        for item in plan.items:
            extent = self._extents[item.storage_index.fqn]
            row = prod(extent.shape[1:])
            start = extent.start + item.storage_offsets[0] * row
            column = self._columns[extent.column]
            values = torch.from_numpy(np.array(column[start : start + item.lengths[0] * row]))
            target = planner.resolve_tensor(item)
            target.detach().copy_(values.view(item.lengths))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """See `StorageReader`."""
        return True
