"""Storage of sharded checkpoints, on one rank; several ranks are in test_parameter_shards.py."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from refsys.data.store.columns import open_columns, write_columns
from refsys.errors import CheckpointError
from refsys.parallel.mesh import RunRanks
from refsys.training.sharded_checkpoint import load_sharded, save_sharded

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
ENTRY = SimpleNamespace(ranks=RunRanks())
SHAPES = {"first": (3, 2), "second": (4,), "third": (1, 2, 3)}


def tensors(start):
    return {
        name: start + torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
        for name, shape in SHAPES.items()
    }


def state(start=0.0):
    return {"parameters": tensors(start), "moments": tensors(100 + start)}


def flat(named):
    return torch.cat([tensor.flatten() for tensor in named.values()]).numpy()


@pytest.fixture
def path(tmp_path):
    save_sharded(tmp_path / "saved", "kind", state(), {"step": 3}, ENTRY)
    return tmp_path / "saved"


def test_saved_record_is_that_of_whole_columns(path, tmp_path):
    """Byte by byte, header included: a reader need not know how it was written."""
    columns = {name: flat(named) for name, named in state().items()}
    write_columns(tmp_path / "whole", "kind", columns, {"step": 3})
    folders = path, tmp_path / "whole"
    saved, whole = ({f.name: f.read_bytes() for f in folder.iterdir()} for folder in folders)
    assert saved == whole


def test_loading_restores_every_tensor_in_place(path):
    loaded = state(start=-7.0)
    load_sharded(open_columns(path, "kind"), loaded, ENTRY)
    for column, named in state().items():
        for name, tensor in named.items():
            assert torch.equal(loaded[column][name], tensor)


def test_damaged_column_is_refused(path):
    column = path / "moments.npy"
    column.write_bytes(column.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match=r"cannot be used: .*moments\.npy: altered"):
        load_sharded(open_columns(path, "kind"), state(), ENTRY)


def test_column_of_another_length_is_refused(tmp_path):
    columns = {"parameters": np.zeros(15, np.float32), "moments": np.zeros(16, np.float32)}
    write_columns(tmp_path / "other", "kind", columns, {})
    with pytest.raises(CheckpointError, match="has float32 15 parameters, this model float32 16"):
        load_sharded(open_columns(tmp_path / "other", "kind"), state(), ENTRY)


def test_folder_that_cannot_be_written_is_reported_and_left_empty(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_sharded(tmp_path / "file" / "saved", "kind", state(), {}, ENTRY)
    with pytest.raises(CheckpointError, match=r"cannot be written: .*not JSON serializable"):
        save_sharded(tmp_path / "saved", "kind", state(), {"step": object()}, ENTRY)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
