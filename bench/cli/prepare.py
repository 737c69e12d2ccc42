"""``foldperf prepare``."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options

if TYPE_CHECKING:
    from refsys.data.preparation import Sources

SUMMARY = "build the store of prepared inputs from structures and alignments"
EXAMPLE = (
    "foldperf prepare\n  foldperf prepare my.cif --alignment A=my_A.a3m\n"
    "  foldperf prepare my.cif --assembly 1 --template A=homolog.cif:B"
)


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
        help="A3M or Parquet file of a chain (label_asym_id); may be repeated",
    )
    parser.add_argument(
        "--realign",
        action="store_true",
        help="lay alignments of close homologs onto the chains",
    )
    parser.add_argument(
        "--template",
        action="append",
        default=[],
        metavar="CHAIN=FILE:CHAIN",
        help="mmCIF file and chain that is a template of a chain; may be repeated",
    )
    parser.add_argument(
        "--assembly", metavar="NAME", help="a biological assembly (default: asymmetric unit)"
    )
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepares each structure; one that cannot be used is named and does not stop the others."""
    from refsys.data.preparation import prepare
    from refsys.data.store import Store
    from refsys.errors import RefsysError

    _require_libraries()
    wanted = [_given(arguments)] if arguments.structure else _fetched(arguments)
    store, failed = Store(arguments.store), 0
    for sources in wanted:
        try:
            done = prepare(store, sources)
        except RefsysError as error:
            failed += 1
            print(f"foldperf: {error}", file=sys.stderr)
        else:
            state = f"{done.built} records built" if done.built else "unchanged"
            if done.dropped:
                state += (
                    f"; left out: {done.dropped} modelled atoms that their residues do not have"
                )
            if done.replaced:
                state += f"; it was made from another file, {done.replaced}, before"
            print(f"{done.entry}: {done.tokens} tokens, {state}", flush=True)
    return 2 if failed else 0


def _given(arguments: argparse.Namespace) -> "Sources":
    """The structure of the command line."""
    from bench.errors import UsageError
    from refsys.data.preparation import Sources

    alignments: dict[str, Path] = {}
    for chain, file in _pairs("--alignment", arguments.alignment, "CHAIN=FILE"):
        if chain in alignments:
            raise UsageError(f"--alignment {chain}=...: given more than once")
        alignments[chain] = Path(file)
    templates: dict[str, list[tuple[Path, str]]] = {}
    for chain, text in _pairs("--template", arguments.template, "CHAIN=FILE:CHAIN"):
        file, sign, other = text.rpartition(":")
        if not (file and sign and other):
            raise UsageError(f"--template {chain}={text}: expected CHAIN=FILE:CHAIN")
        templates.setdefault(chain, []).append((Path(file), other))
    return Sources(
        structure=arguments.structure,
        assembly=arguments.assembly,
        alignments=alignments,
        realign=arguments.realign,
        templates=templates,
    )


def _pairs(option: str, texts: list[str], expected: str) -> list[tuple[str, str]]:
    from bench.errors import UsageError

    pairs = [text.partition("=") for text in texts]
    if bad := [name for name, sign, value in pairs if not (name and sign and value)]:
        raise UsageError(f"{option} {bad[0]}: expected {expected}")
    return [(name, value) for name, _, value in pairs]


def _fetched(arguments: argparse.Namespace) -> "list[Sources]":
    """Every structure in the cache."""
    from bench.errors import UsageError
    from refsys.data.fetch import packages, prepared_sources
    from refsys.home import package_cache

    for option in ("alignment", "template", "realign", "assembly"):
        if getattr(arguments, option):
            raise UsageError(f"--{option} needs the structure that it belongs to")
    fetched = packages(package_cache())
    if missing := [p.name for p in fetched if p.core and not p.is_cached()]:
        raise UsageError(f"{', '.join(missing)} not in the cache; run 'foldperf fetch'")
    return list(prepared_sources(fetched))


def _require_libraries() -> None:
    from bench.errors import UsageError

    try:
        import biotite  # noqa: F401
        import gemmi  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"preparing structures needs {error.name}: pip install 'foldperf[data]'"
        ) from None
