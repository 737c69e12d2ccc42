"""``foldperf prepare``."""

import argparse
import sys
from pathlib import Path

from bench.cli import options

SUMMARY = "build the store of prepared inputs from structures and alignments"
EXAMPLE = "foldperf prepare\n  foldperf prepare my.cif --alignment A=my_A.a3m"


def configure(parser: argparse.ArgumentParser) -> None:
    """What to prepare."""
    parser.add_argument(
        "structure", type=Path, nargs="?", help="an mmCIF file (default: everything fetched)"
    )
    parser.add_argument(
        "--alignment",
        action="append",
        default=[],
        metavar="CHAIN=FILE",
        help="A3M file of a chain (label_asym_id); may be repeated",
    )
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepares each structure; one that cannot be used is named and does not stop the others."""
    from bench.errors import UsageError
    from refsys.data.fetch import packages
    from refsys.data.store import Store
    from refsys.errors import RefsysError
    from refsys.home import package_cache

    _require_gemmi()
    if arguments.structure:
        pairs = [text.partition("=") for text in arguments.alignment]
        if bad := [name for name, sign, file in pairs if not (name and sign and file)]:
            raise UsageError(f"--alignment {bad[0]}: expected CHAIN=FILE")
        names = [name for name, _, _ in pairs]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise UsageError(f"--alignment {repeated[0]}=...: given more than once")
        wanted = [(arguments.structure, {name: Path(file) for name, _, file in pairs})]
    elif arguments.alignment:
        raise UsageError("--alignment needs the structure that it belongs to")
    else:
        fetched = packages(package_cache())
        if missing := [package.name for package in fetched if not package.is_cached()]:
            raise UsageError(f"{', '.join(missing)} not in the cache; run 'foldperf fetch'")
        wanted = [
            (source.structure.cached, {c: m.cached for c, m in source.alignments.items()})
            for package in fetched
            for source in package.sources
        ]
    store, failed = Store(arguments.store), 0
    for path, alignments in wanted:
        try:
            done = store.prepare(path, alignments)
        except RefsysError as error:
            failed += 1
            print(f"foldperf: {error}", file=sys.stderr)
        else:
            state = f"{done.built} records built" if done.built else "unchanged"
            if done.replaced:
                state += f"; it was made from another file, {done.replaced}, before"
            print(f"{done.entry}: {done.tokens} tokens, {state}", flush=True)
    return 2 if failed else 0


def _require_gemmi() -> None:
    from bench.errors import UsageError

    try:
        import gemmi  # noqa: F401
    except ImportError:
        raise UsageError("preparing structures needs gemmi: pip install 'foldperf[data]'") from None
