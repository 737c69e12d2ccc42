"""Checkpoints of training: NumPy columns in a folder, whole or not there at all."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.data.columns import open_columns, write_columns
from refsys.errors import CheckpointError, DataError
from refsys.training_step import Training

_KIND = "checkpoint"
_NAME = re.compile(r"step-(\d{9})")
# All parameters end to end, and each moment of Adam likewise.
_MOMENTS = ("exp_avg", "exp_avg_sq")
_KEPT = 2


def save(folder: Path, training: Training, step: int, run: dict[str, Any]) -> Path:
    """Writes the state after `step` steps; older checkpoints but one are removed.

    Args:
        folder: Where checkpoints of this run live.
        training: The model and optimizer.
        step: How many steps it has done.
        run: What identifies the run.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = folder / _name(step)
    columns = {"parameters": _flat([p.detach() for p in training.model.parameters()])}
    for moment in _MOMENTS:
        columns[moment] = _flat([training.optimizer.state[p][moment] for p in training.parameters])
    try:
        write_columns(path, _KIND, columns, {"step": step, "run": run})
    except DataError as error:
        raise CheckpointError(str(error)) from None
    for old in checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def _name(step: int) -> str:
    return f"step-{step:09d}"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def restore(path: Path, training: Training, run: dict[str, Any]) -> int:
    """Loads a checkpoint and returns how many steps it has done.

    Raises:
        CheckpointError: it is damaged, or of a run that differs in anything but its length.
    """
    try:
        columns = open_columns(path, _KIND)
        columns.verify()
        step, found = int(columns.facts["step"]), dict(columns.facts["run"])
        if path.name != _name(step):
            raise DataError(f"says that it has {step} steps")
        arrays = {name: np.array(columns[name]) for name in ("parameters", *_MOMENTS)}
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be used: {error}") from None
    run = json.loads(json.dumps(run))
    if found != run:
        different = sorted(
            key for key in run.keys() | found.keys() if run.get(key) != found.get(key)
        )
        raise CheckpointError(
            f"{path}: of a run with another {', '.join(different)}; choose another folder"
        )
    with torch.no_grad():
        _unflatten(arrays["parameters"], list(training.model.parameters()))
        training.materialize_moments()
        for moment in _MOMENTS:
            states = [training.optimizer.state[p][moment] for p in training.parameters]
            _unflatten(arrays[moment], states)
        for parameter in training.parameters:
            training.optimizer.state[parameter]["step"].fill_(step)
    return step


def _flat(tensors: list[Tensor]) -> NDArray[Any]:
    return torch.cat([tensor.detach().reshape(-1).cpu() for tensor in tensors]).numpy()


def _unflatten(flat: NDArray[Any], tensors: list[Tensor]) -> None:
    parts = torch.from_numpy(flat).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.reshape(tensor.shape))
