"""Launch options that were measured to be faster than the shipped ones, kept between runs.

One file for each kernel, architecture, dtype and bucket of shapes, in the folder ``tuning`` of
`refsys.home`, written whole or not at all. A file that is damaged, or fits no kernel of this
version, is ignored with a warning; the next ``foldperf tune`` replaces it.
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
from refsys.ops.scope import Watchers

FORMAT = 1
ENVIRONMENT_VARIABLE = "FOLDPERF_TUNING"
_LARGEST = 1024


class Key(NamedTuple):
    """What tuned options are good for.

    Attributes:
        kernel: As ``triangle_attention.forward``.
        architecture: As ``sm_90``.
        dtype: Of the activations, as ``bfloat16``.
        bucket: See `bucket`.
    """

    kernel: str
    architecture: str
    dtype: str
    bucket: str

    @property
    def width(self) -> int:
        """Of the rows."""
        return int(self.bucket.split("x")[0])


_watchers = Watchers[Key]()


_used: set[Key] = set()


class TuningWarning(UserWarning):
    """A kept result could not be used."""


def bucket(tensor: Tensor) -> str:
    """Shapes that share options: a width, and the number of rows up to a power of two."""
    width = tensor.shape[-1]
    rows = max(1, tensor.numel() // max(1, width))
    return f"{width}x{1 << (rows - 1).bit_length()}"


def path_of(key: Key) -> Path:
    """Where the result for a key is kept."""
    name = f"{key.kernel}-{key.dtype}-{key.bucket}.json"
    return home() / "tuning" / key.architecture / name


def tuned_options(key: Key, shipped: Mapping[str, int]) -> Mapping[str, int] | None:
    """The options kept for a key, or None; they name what the shipped ones do.

    ``FOLDPERF_TUNING=off`` keeps to the shipped ones.
    """
    _watchers.tell(key)
    if os.environ.get(ENVIRONMENT_VARIABLE, "").lower() in {"off", "0"}:
        return None
    found = _read(key, tuple(sorted(shipped)))
    if found:
        _used.add(key)
    return found


def used() -> frozenset[Key]:
    """The keys whose kept options were launched with in this process, so far."""
    return frozenset(_used)


def keep(key: Key, options: Mapping[str, int], evidence: Mapping[str, Any]) -> Path:
    """Keeps options for a key, with what was measured, and returns where."""
    path = path_of(key)
    table = {"format": FORMAT, **key._asdict(), "options": dict(options), **evidence}
    write_json(path, table)
    _read.cache_clear()
    return path


@contextmanager
def watch_keys(watcher: Callable[[Key], object]) -> Iterator[None]:
    """Calls `watcher` with the key of each kernel whose options are asked for inside the block."""
    with _watchers.added(watcher):
        yield


@functools.cache
def _read(key: Key, names: tuple[str, ...]) -> Mapping[str, int] | None:
    try:
        path = path_of(key)
    except HomeError:  # nothing was kept
        return None
    return read_options(path, key, names)


def read_options(path: Path, key: Key, names: tuple[str, ...]) -> Mapping[str, int] | None:
    """Return the options that a file keeps for a key; None, with a warning, if it is damaged.

    Args:
        path: The file; None is returned if it does not exist.
        key: What the options must be for.
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
            f"tuned options in {path} are ignored ({reason}); foldperf tune makes them again",
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
        whole = isinstance(value, int) and not isinstance(value, bool)
        power = whole and 0 < value <= _LARGEST and value & (value - 1) == 0
        if not (power or (name == "num_stages" and whole and 0 < value < 8)):
            raise ValueError(f"{name} is {value!r}")
    return options
