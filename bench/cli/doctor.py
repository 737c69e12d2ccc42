"""``foldperf doctor``."""

import argparse
import os
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.cli import options

SUMMARY = "what this machine can measure, and what would unlock the rest"
EXAMPLE = "foldperf doctor"
_EXTRAS = {
    "gemmi": ("preparation of structures", "data"),
    "matplotlib": ("figure", "report"),
    "jinja2": ("HTML report", "report"),
    "scipy": ("fitted exponent", "report"),
    "rich": ("live progress bar", "progress"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Which device."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options.add_store(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints each metric as available, degraded or missing."""
    from bench import provenance
    from bench.devices import find_device
    from bench.doctor import examine
    from refsys.data.store import Store

    device = find_device(arguments.device)
    findings = examine(device)
    software, host, git = provenance.software(), provenance.host(), provenance.git_state()
    entries = Store(arguments.store).entries()
    absent = [name for name in _EXTRAS if find_spec(name) is None]
    if arguments.json:
        options.print_json(
            {
                "device": device.describe().as_json(),
                "host": host,
                "software": software,
                "git": git,
                "prepared": entries,
                "metrics": [asdict(finding) for finding in findings],
                "missing_packages": absent,
            }
        )
        return 0
    print(f"device    {device.describe().name} ({device.describe().vendor})")
    print(f"host      {host['cpu']}, {host['cores']} cores, {host['memory_bytes'] / 2**30:.0f} GiB")
    print(f"software  python {software['python']}, torch {software['torch']}")
    print(f"commit    {_commit(git)}")
    prepared = ", ".join(entries) or "nothing; run 'foldperf fetch' and 'foldperf prepare'"
    print(f"prepared  {prepared} ({_short(arguments.store)})")
    print()
    for finding in findings:
        print(f"{finding.status:<9} {finding.metric}")
        if finding.reason:
            print(f"          why: {finding.reason}")
        if finding.unlock:
            print(f"          unlock: {finding.unlock}")
    for name in absent:
        purpose, extra = _EXTRAS[name]
        print(f"\nwithout {name} there is no {purpose}: pip install 'foldperf[{extra}]'")
    return 0


def _commit(git: dict[str, Any]) -> str:
    """The commit in short, and why it is not known or not that of the repository."""
    from bench.provenance import commit_warning

    parts = [git["sha"][:12] + (" (dirty)" if git["dirty"] else "")] if git["sha"] else []
    return "; ".join([*parts, *filter(None, [commit_warning(git)])])


def _short(path: Path) -> str:
    """Return the path with the user's home folder, if there is one, as ``~``."""
    account = os.path.expanduser("~")
    return str(Path("~", path.relative_to(account)) if path.is_relative_to(account) else path)
