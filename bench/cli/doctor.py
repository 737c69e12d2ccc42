"""``foldperf doctor``."""

import argparse
import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from bench.records.origin import GitState

SUMMARY = "show which metrics this machine can measure, and how to enable the others"
EXAMPLE = "foldperf doctor"
_EXTRAS = {
    "gemmi": ("preparation of structures", "data"),
    "matplotlib": ("figure", "report"),
    "jinja2": ("HTML report", "report"),
    "scipy": ("fitted exponent", "report"),
    "rich": ("live progress bar", "progress"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options: device, store, form of the output."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options.add_store(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the device, each of its readings and each metric as available, degraded or missing."""
    from bench.devices import find_device
    from bench.doctor import examine, examine_readings, library_finding
    from bench.records import provenance

    device = find_device(arguments.device)
    description = device.describe()
    library, readings, findings = library_finding(device), examine_readings(device), examine(device)
    software, host, git = provenance.software(), provenance.host(), provenance.git_state()
    prepared = _prepared(arguments)
    absent = [name for name in _EXTRAS if find_spec(name) is None]
    if arguments.json:
        options.print_json(
            {
                "device": description.as_json(),
                "host": asdict(host),
                "software": software,
                "git": asdict(git),
                "prepared": prepared.entries,
                "prepared_reason": prepared.reason,
                "library": asdict(library) if library else None,
                "readings": [asdict(reading) for reading in readings],
                "metrics": [asdict(finding) for finding in findings],
                "missing_packages": absent,
            }
        )
        return 0
    print(f"device    {description.name} ({description.vendor})")
    if library:
        print(f"library   {library.reason or 'found'}")
        if library.unlock:
            print(f"          unlock: {library.unlock}")
    print(f"host      {host.cpu}, {host.cores} cores, {host.memory_bytes / 2**30:.0f} GiB")
    print(f"software  python {software['python']}, torch {software['torch']}")
    print(f"commit    {_commit(git)}")
    print(f"prepared  {prepared.text()}")
    print()
    # A host has hardly any, and its metrics say so.
    sections = [("readings of the device", readings)] if library else []
    for title, part in [*sections, ("metrics", findings)]:
        print(f"{title}:")
        for finding in part:
            print(f"{finding.status:<9} {finding.metric}")
            if finding.reason:
                print(f"          why: {finding.reason}")
            if finding.unlock:
                print(f"          unlock: {finding.unlock}")
        print()
    for name in absent:
        purpose, extra = _EXTRAS[name]
        print(f"without {name} there is no {purpose}: pip install 'foldperf[{extra}]'")
    return 0


def _commit(git: "GitState") -> str:
    """Return the short commit, and why it is not known or not that of the repository."""
    from bench.records.provenance import commit_warning

    parts = [git.sha[:12] + (" (dirty)" if git.dirty else "")] if git.sha else []
    return "; ".join([*parts, *filter(None, [commit_warning(git)])])


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Prepared entries of the store.

    Attributes:
        entries: Their names; None if the store cannot be looked at.
        folder: The store; None if it cannot be determined.
        reason: Why there are no names, else None.
    """

    entries: list[str] | None
    folder: Path | None
    reason: str | None

    def text(self) -> str:
        """Return one line."""
        if self.entries is None or self.folder is None:
            return f"unknown: {self.reason}"
        names = ", ".join(self.entries) or "nothing; run 'foldperf fetch' and 'foldperf prepare'"
        return f"{names} ({_short(self.folder)})"


def _prepared(arguments: argparse.Namespace) -> _Prepared:
    """Look at the store; what is wrong with it is one finding among others."""
    from refsys.data.store.store import Store
    from refsys.errors import RefsysError

    folder = None
    try:
        folder = options.store(arguments)
        return _Prepared(Store(folder).entries(), folder, None)
    except RefsysError as error:
        return _Prepared(None, folder, str(error))
    except OSError as error:
        return _Prepared(None, folder, f"{error.filename or folder}: {error.strerror}")


def _short(path: Path) -> str:
    """Return the path with the user's home folder, if there is one, as ``~``."""
    account = os.path.expanduser("~")
    return str(Path("~", path.relative_to(account)) if path.is_relative_to(account) else path)
