"""Options that several commands share."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bench.cgroup import usable_cores
from bench.cli import faults

_Reading = TypeVar("_Reading")
_Source = TypeVar("_Source")

if TYPE_CHECKING:
    from bench.records.record import Record
    from refsys.options import Option

RESULTS = Path("results")
_LONGEST_S = 1e9


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add ``--store``, the folder of prepared inputs; `store` reads it."""
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="prepared inputs (default: $FOLDPERF_STORE, else in the cache folder)",
    )


def store(arguments: argparse.Namespace) -> Path:
    """Return the folder of prepared inputs.

    The default is looked for only here: commands that read no inputs work without a home folder.

    Raises:
        HomeError: no option and no variable names a folder, and the user has no home.
    """
    from refsys.home import default_store

    folder: Path | None = arguments.store
    return default_store() if folder is None else folder


def processes(requested: int | None, most: int) -> int:
    """Return `requested`, else the number of cores that this process may use, `most` at most."""
    if requested is not None:
        return requested
    try:
        return min(most, usable_cores())
    except OSError:  # a sandbox that does not tell
        return 1


def add_option(parser: argparse.ArgumentParser, leaf: "Option") -> None:
    """Add one leaf of a configuration; its value is text, or None where nothing is chosen.

    The text is parsed with the whole configuration, whose errors are one line.
    """
    flag = f"--{leaf.field.replace('_', '-')}"
    details = [f"one of {', '.join(map(str, leaf.listed_choices))}"] if leaf.listed_choices else []
    details += [f"default: {leaf.default}"] if leaf.default != "" else []
    text = leaf.help + (f" ({'; '.join(details)})" if details else "")
    if isinstance(leaf.default, bool):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif leaf.many:
        help_ = f"{leaf.help} (default: all prepared)"
        parser.add_argument(flag, nargs="+", metavar=leaf.name.upper(), help=help_)
    else:
        metavar = {int: "N", float: "NUMBER", str: "NAME"}[type(leaf.default)]
        parser.add_argument(flag, metavar=metavar, help=text)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add ``--results``, the folder of records."""
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="records (default: results)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, output for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def print_error(error: Exception, *, debug: bool = False) -> None:
    """Print the error of one file as a line, and under ``--debug`` its traceback."""
    from refsys.errors import one_line

    print(f"foldperf: {one_line(str(error))}", file=sys.stderr)
    if debug and (details := getattr(error, "details", "")):
        print(details, file=sys.stderr)


def readable_records(paths: Iterable[Path], *, debug: bool = False) -> "tuple[list[Record], int]":
    """Return the valid records of files and folders, and the number of files with other lines.

    Each of those is named on the standard error; its valid records are used.

    Raises:
        StorageError: there is no valid record, but a file that is damaged or cannot be read.
        UsageError: the package that checks them is missing.
    """
    from bench.records.reading import read_all_records

    reading = checked(read_all_records, paths)
    errors = list(reading.errors)
    fatal = errors.pop() if errors and not reading.records else None
    for error in errors:
        print_error(error, debug=debug)
    if fatal:
        raise fatal
    return reading.records, len(errors)


def valid_records(paths: Iterable[Path]) -> "list[Record]":
    """Return the records of files and folders, each checked against the schema.

    Raises:
        UsageError: the package that checks them is missing.
        StorageError: a path cannot be read, or a line of it is not a record.
    """
    from bench.records.reading import read_valid_records

    return checked(read_valid_records, paths)


def checked(read: "Callable[[_Source], _Reading]", source: "_Source") -> "_Reading":
    """Return the result of `read` on a source, which needs the ``jsonschema`` package.

    Raises:
        UsageError: ``jsonschema`` is not installed.
    """
    from bench.errors import UsageError

    try:
        return read(source)
    except ImportError:
        raise UsageError(
            "checking records needs jsonschema: pip install 'foldperf[analysis]'"
        ) from None


@contextmanager
def analysis_packages() -> Iterator[None]:
    """Name the extra to install where a package of the analysis cannot be imported.

    Raises:
        UsageError: A package is not installed.
    """
    from bench.errors import UsageError

    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"this command needs {error.name or error}: pip install 'foldperf[analysis]'"
        ) from None


def at_least(smallest: int) -> Callable[[str], int]:
    """Return a type of argument: whole numbers from `smallest` on."""

    def parse(text: str) -> int:
        value = int(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{value} is less than {smallest}")
        return value

    parse.__name__ = "int"
    return parse


def seconds(text: str) -> float:
    """Return a time as a type of argument: more than nothing, and finite."""
    value = float(text)
    if not 0 < value <= _LONGEST_S:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 to {_LONGEST_S:g} s")
    return value


def minutes(text: str) -> float:
    """Return a time in minutes as a type of argument: more than nothing, and finite."""
    value = float(text)
    if not 0 < value <= _LONGEST_S / 60:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 to {_LONGEST_S / 60:.3g} min")
    return value


def program() -> list[str]:
    """Return the words that call this program as it was called, for commands to copy."""
    path = Path(sys.argv[0])
    if path.parts[-2:] == ("bench", "__main__.py"):
        return [sys.executable, "-m", "bench"]
    in_path = shutil.which("foldperf")
    if path.name != "foldperf" or (in_path and Path(in_path).resolve() == path.resolve()):
        return ["foldperf"]
    return [str(path)]


def print_json(value: Any) -> None:
    """Print strict JSON."""
    print(json.dumps(value, indent=1, allow_nan=False))


def parse_axes(words: list[str]) -> dict[str, object]:
    """Return ``--axis value`` and ``--axis=value`` as a table; dashes in a name are underscores.

    ``--debug`` may stand among them and is left out: it is an option of every command.

    Raises:
        UsageError: a word is no option, or has no value.
    """
    from bench.errors import UsageError

    values: dict[str, object] = {}
    remaining = iter([word for word in words if word != faults.DEBUG])
    for word in remaining:
        if not word.startswith("--"):
            raise UsageError(f"{word!r}: expected --AXIS VALUE")
        name, sign, value = word[2:].partition("=")
        if not sign:
            value = next(remaining, "")
            if not value:
                raise UsageError(f"{word} has no value")
        values[name.replace("-", "_")] = value
    return values


def parse_axis_values(words: list[str]) -> dict[str, list[object]]:
    """Return ``--axis value value ...`` as a table of lists; see `parse_axes`.

    Raises:
        UsageError: a word belongs to no option, or an option has no value.
    """
    from bench.errors import UsageError

    values: dict[str, list[object]] = {}
    name = ""
    for word in words:
        if word == faults.DEBUG:
            continue
        if word.startswith("--"):
            name, sign, value = word[2:].partition("=")
            name = name.replace("-", "_")
            values[name] = [value] if sign else []
        elif name:
            values[name].append(word)
        else:
            raise UsageError(f"{word!r}: expected --AXIS VALUE")
    for name, listed in values.items():
        if not listed:
            raise UsageError(f"--{name.replace('_', '-')} has no value")
    return values
