"""Launch options measured to be faster than the shipped ones, stored between runs.

One file for each kernel, architecture, dtype and bucket of shapes, in the folder ``tuning`` of
`refsys.home`, written atomically. A file that is damaged, or fits no kernel of this version, is
ignored with a warning; the next ``foldperf tune`` replaces it.
"""

import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from refsys.errors import HomeError
from refsys.files import parse_json, write_json
from refsys.home import home
from refsys.ops.scope import current, override

FORMAT = 1
ENVIRONMENT_VARIABLE = "FOLDPERF_TUNING"
_LARGEST = 1024


class Key(NamedTuple):
    """Key that tuned options are stored under.

    Attributes:
        kernel: Operator and kernel, as ``triangle_attention.forward``.
        architecture: Architecture, as ``sm_90``.
        dtype: Dtype of the activations, as ``bfloat16``.
        bucket: See `bucket`.
    """

    kernel: str
    architecture: str
    dtype: str
    bucket: str

    @property
    def width(self) -> int:
        """Width of the rows."""
        return int(self.bucket.split("x")[0])


_used: set[Key] = set()


class TuningWarning(UserWarning):
    """Warning that a stored result cannot be used."""


def bucket(tensor: Tensor) -> str:
    """Return the bucket of shapes that share options: width, and rows up to a power of two."""
    width = tensor.shape[-1]
    rows = max(1, tensor.numel() // max(1, width))
    return f"{width}x{1 << (rows - 1).bit_length()}"


def path_of(key: Key) -> Path:
    """Return the path of the file that stores the result for a key."""
    name = f"{key.kernel}-{key.dtype}-{key.bucket}.json"
    return home() / "tuning" / key.architecture / name


def tuned_options(key: Key, shipped: Mapping[str, int]) -> Mapping[str, int] | None:
    """Return the options stored for a key, or None; their names are those of the shipped ones.

    ``FOLDPERF_TUNING=off`` leaves the shipped ones in use.
    """
    for callback in current().tuning_callbacks:
        callback(key)
    if os.environ.get(ENVIRONMENT_VARIABLE, "").lower() in {"off", "0"}:
        return None
    options = _read(key, tuple(sorted(shipped)))
    if options:
        _used.add(key)
    return options


def used() -> frozenset[Key]:
    """Return the keys whose stored options this process has launched kernels with."""
    return frozenset(_used)


def keep(key: Key, options: Mapping[str, int], evidence: Mapping[str, Any]) -> Path:
    """Store options for a key, with the measurements behind them, and return the path."""
    path = path_of(key)
    table = {"format": FORMAT, **key._asdict(), "options": dict(options), **evidence}
    write_json(path, table)
    _read.cache_clear()
    return path


@contextmanager
def watch_keys(callback: Callable[[Key], object]) -> Iterator[None]:
    """Call `callback` with the key of each kernel that looks up its options inside the block."""
    with override(tuning_callbacks=(callback,)):
        yield


@functools.cache
def _read(key: Key, names: tuple[str, ...]) -> Mapping[str, int] | None:
    try:
        path = path_of(key)
    except HomeError:  # nothing was stored
        return None
    return read_options(path, key, names)


def read_options(path: Path, key: Key, names: tuple[str, ...]) -> Mapping[str, int] | None:
    """Return the options that a file stores for a key; None, with a warning, if it is damaged.

    Args:
        path: The file; None is returned if it does not exist.
        key: Required key of the options.
        names: Sorted names of the options.
    """
    try:
        table = parse_json(path.read_bytes())
        return _checked(table, key, names)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error) or type(error).__name__
        warnings.warn(
            f"tuned options in {path} are ignored ({reason}); foldperf tune replaces them",
            TuningWarning,
            stacklevel=3,
        )
        return None


def _checked(table: Any, key: Key, names: tuple[str, ...]) -> Mapping[str, int]:
    if table["format"] != FORMAT:
        raise ValueError(f"format {table['format']}, not {FORMAT}")
    for field, value in key._asdict().items():
        if table[field] != value:
            raise ValueError(f"{field} is {table[field]!r}")
    options: dict[str, int] = dict(table["options"])
    if tuple(sorted(options)) != names:
        raise ValueError(f"options are {', '.join(sorted(options))}, not {', '.join(names)}")
    for name, value in options.items():
        integer = isinstance(value, int) and not isinstance(value, bool)
        power = integer and 0 < value <= _LARGEST and value & (value - 1) == 0
        if not (power or (name == "num_stages" and integer and 0 < value < 8)):
            raise ValueError(f"{name} is {value!r}")
    return options
