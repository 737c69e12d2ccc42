"""Writing files so that a reader sees the whole new content or none of it."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Digits of the largest integer that a file of ours may hold: FLOPs have twenty at most.
_LONGEST_INT = 24


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces the file at `path`: written beside it, flushed to disk, then renamed."""
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
    """Writes strict JSON atomically; NaN and infinity are refused."""
    write_atomically(path, json_bytes(value))


def parse_json(content: bytes) -> Any:
    """Return the value of strict JSON in UTF-8.

    Raises:
        ValueError: it is not JSON, or holds what no file of ours does: NaN, infinity or a number
            beyond the range of float64, an integer of more than 24 digits, a key twice in one
            object, half of a surrogate pair, or nesting beyond the interpreter's limit.
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
        # Half of a surrogate pair is no text: it can neither be printed nor written.
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.80} stands twice in one object")
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
    """What `write_json` writes."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes `path` when the block ends well.

    If `path` came into being meanwhile, it is kept and the new one dropped: folders that are named
    by their content are equal.
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
