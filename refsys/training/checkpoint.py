"""Checkpoints of training: NumPy columns in a folder, complete or absent."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refsys.data.store.columns import Columns, open_columns, write_columns
from refsys.errors import CheckpointError, DataError
from refsys.run_config import NOT_COMPUTED
from refsys.training.step import Training

# Folder of the checkpoints of a run.
CHECKPOINTS = "checkpoints"
_KIND = "checkpoint"
_NAME = re.compile(r"step-(\d{9})")
# All parameters end to end; the averages of those that are trained, and each moment of Adam.
_PARAMETERS, _AVERAGES = "parameters", "averages"
_MOMENTS = ("exp_avg", "exp_avg_sq")
# The kind of averages that a checkpoint holds. Those of checkpoints without this fact started from
# the initial weights, which were most of them for hundreds of steps.
_AVERAGING = "bias-corrected"
_KEPT = 2


def save(folder: Path, training: Training, step: int, run: dict[str, Any]) -> Path:
    """Write the state after `step` steps; older checkpoints but one are removed.

    Where parameters are sharded every rank calls it, elsewhere the first one.

    Args:
        folder: Folder of the checkpoints of this run.
        training: The model and optimizer.
        step: Number of steps that it has done.
        run: Identity of the run.

    Raises:
        CheckpointError: it cannot be written.
    """
    path = folder / _name(step)
    state = _state(training)
    facts = {"step": step, "run": run, "averaging": _AVERAGING}
    if training.entry is not None:
        from refsys.training.sharded_checkpoint import save_sharded

        save_sharded(path, _KIND, state, facts, training.entry)
        if not training.entry.ranks.is_first:
            return path
    else:
        columns = {column: _flat(list(tensors.values())) for column, tensors in state.items()}
        try:
            write_columns(path, _KIND, columns, facts)
        except DataError as error:
            raise CheckpointError(str(error)) from None
    for old in checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def _state(training: Training) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each column by name, whole ones or parts that know the whole."""
    parameters: dict[str, Tensor] = dict(training.model.named_parameters())
    trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
    states = [training.optimizer.state[parameter] for parameter in training.parameters]
    columns = {_AVERAGES: training.averages}
    columns |= {moment: [state[moment] for state in states] for moment in _MOMENTS}
    if training.entry is not None:
        columns = {
            name: list(training.entry.of_all_ranks(tensors)) for name, tensors in columns.items()
        }
    return {_PARAMETERS: parameters} | {
        column: dict(zip(trained, tensors, strict=True)) for column, tensors in columns.items()
    }


def _name(step: int) -> str:
    return f"step-{step:09d}"


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def latest(path: Path) -> Path:
    """Return a checkpoint, or the last one of a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    if _NAME.fullmatch(path.name):
        return path
    paths = checkpoints(path / CHECKPOINTS) or checkpoints(path)
    if not paths:
        raise CheckpointError(f"{path}: has no checkpoint")
    return paths[-1]


def restore(path: Path, training: Training, run: dict[str, Any]) -> int:
    """Load a checkpoint and return the number of its steps.

    The state of the averages is the averages themselves and the number of steps, so that a run
    continues with the bits that it would have had without the stop.

    Raises:
        CheckpointError: it is damaged, has averages of another kind, or is of a run that differs in
            anything but its length.
    """
    # Of sharded parameters, one rank verifies the columns for all.
    columns = _opened(path, facts_alone=training.entry is not None)
    _check_averaging(path, columns)
    try:
        step, saved_run = int(columns.facts["step"]), dict(columns.facts["run"])
        saved_run = {name: saved_run[name] for name in saved_run.keys() - NOT_COMPUTED}
        if path.name != _name(step):
            raise DataError(f"says that it has {step} steps")
        if missing := {_PARAMETERS, _AVERAGES, *_MOMENTS} - set(columns):
            raise DataError(f"no column {sorted(missing)[0]}")
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be used: {error}") from None
    run = json.loads(json.dumps(run))
    if saved_run != run:
        different = sorted(
            key for key in run.keys() | saved_run.keys() if run.get(key) != saved_run.get(key)
        )
        raise CheckpointError(
            f"{path}: of a run with another {', '.join(different)}; choose another folder"
        )
    with torch.no_grad():
        training.materialize_moments()
        state = _state(training)
        if training.entry is not None:
            from refsys.training.sharded_checkpoint import load_sharded

            load_sharded(columns, state, training.entry)
        else:
            for column, tensors in state.items():
                _unflatten(np.array(columns[column]), list(tensors.values()))
        for parameter in training.parameters:
            training.optimizer.state[parameter]["step"].fill_(step)
    return step


def load_weights(path: Path, training: Training, *, averaged: bool) -> dict[str, Any]:
    """Load a checkpoint's weights alone and return the identity of its run.

    Args:
        path: A checkpoint.
        training: Of the same model; its averages start from the weights.
        averaged: Whether to take the exponential moving averages.

    Raises:
        CheckpointError: it is damaged, or of another model, or its averages are wanted and are of
            another kind.
    """
    columns = _opened(path)
    if averaged:
        _check_averaging(path, columns)
    try:
        weights = {name: np.array(columns[name]) for name in (_PARAMETERS, _AVERAGES)}
        run = dict(columns.facts["run"])
    except (DataError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be used: {error}") from None
    everything = list(training.model.parameters())
    for name, tensors in ((_PARAMETERS, everything), (_AVERAGES, training.averages)):
        expected = sum(tensor.numel() for tensor in tensors)
        if weights[name].size != expected:
            raise CheckpointError(
                f"{path}: has {weights[name].size} {name}, this model {expected}; "
                "choose its model and preset"
            )
    with torch.no_grad():
        _unflatten(weights[_PARAMETERS], everything)
        if averaged:
            _unflatten(weights[_AVERAGES], list(training.parameters))
    training.restart_averages()
    return run


def _opened(path: Path, *, facts_alone: bool = False) -> Columns:
    try:
        columns = open_columns(path, _KIND)
        columns.verify_facts() if facts_alone else columns.verify()
    except DataError as error:
        raise CheckpointError(f"{path}: cannot be used: {error}") from None
    return columns


def _check_averaging(path: Path, columns: Columns) -> None:
    averaging = columns.facts.get("averaging", "uncorrected")
    if averaging != _AVERAGING:
        raise CheckpointError(
            f"{path}: its averages of the weights are {averaging}; this version reads "
            f"{_AVERAGING} ones: train again, or start another run from its weights"
        )


def _flat(tensors: Sequence[Tensor]) -> NDArray[Any]:
    return torch.cat([tensor.detach().reshape(-1).cpu() for tensor in tensors]).numpy()


def _unflatten(flat: NDArray[Any], tensors: Sequence[Tensor]) -> None:
    parts = torch.from_numpy(flat).split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.reshape(tensor.shape))
