"""Atomic file writes and strict JSON: a reader sees the complete new content or none of it."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Most characters of an integer in a JSON file of this project; FLOP counts have at most twenty.
_LONGEST_INT = 24


def write_atomically(path: Path, content: bytes) -> None:
    """Replace the file at `path`: write a temporary file beside it, flush it to disk, rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically; NaN and infinity raise ValueError."""
    write_atomically(path, json_bytes(value))


def parse_json(content: bytes) -> Any:
    """Return the value of strict JSON in UTF-8.

    Raises:
        ValueError: the content is not JSON, or holds a value that this project never writes: NaN,
            infinity, a number beyond the range of float64, an integer of more than 24 digits, a
            duplicate key, half of a surrogate pair, or nesting beyond the interpreter's limit.
    """
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object_of,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
            parse_int=_parse_int,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if b"\\u" in content:
        # Half of a surrogate pair cannot be encoded: it could be neither printed nor written.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{duplicate!r:.80} stands twice in one object")
    return table


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.80} is beyond the range of float64")
    return value


def _parse_int(text: str) -> int:
    if len(text) > _LONGEST_INT:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def json_bytes(value: Any) -> bytes:
    """Return the bytes that `write_json` writes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that is renamed to `path` when the block ends without an exception.

    If `path` was created in the meantime, it stays and the new folder is discarded: folders that
    are named by their content are equal.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
