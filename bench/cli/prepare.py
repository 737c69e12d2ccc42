"""``foldperf prepare``."""

import argparse
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli import options
from bench.cli.options import print_error

if TYPE_CHECKING:
    from refsys.data.prepare.entries import Prepared, Sources
    from refsys.data.store.store import Store
    from refsys.errors import DataError

SUMMARY = "build the store of prepared inputs from structures and MSAs"
EXAMPLE = (
    "foldperf prepare\n  foldperf prepare my.cif --alignment A=my_A.a3m\n"
    "  foldperf prepare my.cif --assembly 1 --template A=homolog.cif:B\n"
    "  foldperf prepare --from my-structures --search\n"
    "  foldperf prepare --for demo"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the structures, their MSAs and templates, and the search."""
    parser.add_argument(
        "structure",
        type=Path,
        nargs="?",
        help="an mmCIF or BinaryCIF file (default: everything fetched)",
    )
    parser.add_argument(
        "--alignment",
        action="append",
        default=[],
        metavar="CHAIN=FILE",
        help="A3M, Stockholm or Parquet file of a chain (label_asym_id); may be repeated",
    )
    parser.add_argument(
        "--realign",
        action="store_true",
        help="map MSAs of close homologs onto the chains",
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
    parser.add_argument(
        "--as-deposited",
        action="store_true",
        help="keep selenomethionine and the deposited names of arginine's nitrogens "
        "(default: selenomethionine becomes methionine, and the nitrogen nearer to CD NH1)",
    )
    parser.add_argument(
        "--from",
        dest="folder",
        type=Path,
        metavar="FOLDER",
        help="prepare every structure NAME.cif of a folder as entry NAME, with the MSAs "
        "NAME_CHAIN.a3m",
    )
    parser.add_argument(
        "--for",
        dest="sweep",
        metavar="SWEEP",
        help="only the fetched entries that the cases of a sweep read (a name of 'foldperf list', "
        "or a TOML file)",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="search the fetched sequences for MSAs of protein chains that have none",
    )
    parser.add_argument(
        "--database", type=Path, metavar="FASTA", help="search in these sequences instead"
    )
    parser.add_argument(
        "--workers",
        type=options.at_least(0),
        metavar="N",
        help="structures prepared at once, each in a process of its own (default: cores, 4 at "
        "most); 0: in this process, which a damaged file may end",
    )
    options.add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prepare each structure; one that cannot be used is named and does not stop the others."""
    from bench.errors import UsageError
    from bench.progress import Progress
    from refsys.data.prepare.entries import Prepared
    from refsys.data.prepare.parallel import prepare_all
    from refsys.data.store.store import Store
    from refsys.errors import one_line

    _require_libraries()
    if arguments.structure and arguments.folder:
        raise UsageError("--from takes the place of a structure")
    if arguments.sweep and (arguments.structure or arguments.folder):
        raise UsageError("--for chooses among fetched entries; leave out --from and the structure")
    selected, errors = ([_given(arguments)], []) if arguments.structure else _several(arguments)
    if arguments.sweep and not selected:
        print(f"{arguments.sweep}: no case reads a fetched entry, nothing to prepare")
        return 0
    if arguments.search or arguments.database:
        database = arguments.database or _fetched_database()
        selected = [replace(sources, database=database) for sources in selected]
    selected = [replace(sources, as_deposited=arguments.as_deposited) for sources in selected]
    store, failed = Store(options.store(arguments)), len(errors)
    workers = options.processes(arguments.workers, most=4)
    for error in errors:
        print_error(error, debug=arguments.debug)
    made_from: dict[str, Path] = {}
    with Progress(len(selected), "preparing", sys.stdout) as progress:
        alone = len(selected) == 1
        say = print if alone else progress.finish
        for sources, done in prepare_all(store, selected, workers):
            if not isinstance(done, Prepared):
                failed += 1
                print_error(done, debug=arguments.debug)
                if not alone:
                    say(one_line(f"{sources.structure.name}: not prepared"))
                continue
            for damage in done.repaired:
                print(f"foldperf: repaired: {damage}", file=sys.stderr)
            say(_line(done))
            for note in done.notes:
                print(f"foldperf: {sources.structure.name}: {note}", file=sys.stderr)
            other = made_from.setdefault(done.entry, sources.structure)
            if other != sources.structure:
                failed += 1
                both = f"{other.name} and {sources.structure.name}"
                print(f"foldperf: {both} are both {done.entry}; one is lost", file=sys.stderr)
    if made_from:
        failed += _relate(store, made_from, debug=arguments.debug, quiet=len(selected) == 1)
    return 2 if failed else 0


def _relate(store: "Store", entries: Collection[str], *, debug: bool, quiet: bool) -> int:
    """Search for templates and clusters, print the outcome, and return how many entries failed."""
    from refsys.data.prepare.similarity import find_templates_and_clusters
    from refsys.errors import RefsysError, unexpected_error

    what = "templates and clusters"
    try:
        related = find_templates_and_clusters(store, entries)
    except RefsysError as error:
        print(f"foldperf: {what}: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        print_error(unexpected_error(what, error), debug=debug)
        return 1
    for failure in related.errors:
        print_error(failure, debug=debug)
    for damage in related.repaired:
        print(f"foldperf: repaired: {damage}", file=sys.stderr)
    if not quiet:
        state = f"{related.changed} entries changed" if related.changed else "unchanged"
        print(f"templates found for {related.templates} chains: {state}")
    return len(related.errors)


def _line(done: "Prepared") -> str:
    """Return the outcome of an entry as a line."""
    state = f"{done.built} records built" if done.built else "unchanged"
    if done.identity:
        state += f"; {done.identity}"
    if done.dropped:
        state += f"; left out: {done.dropped} modelled atoms that their residues do not have"
    if done.replaced:
        state += f"; it was made from another file, {done.replaced}, before"
    return f"{done.entry}: {done.tokens} tokens, {state}"


def _given(arguments: argparse.Namespace) -> "Sources":
    """Return the sources of the structure on the command line."""
    from bench.errors import UsageError
    from refsys.data.prepare.entries import Sources

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


def _several(arguments: argparse.Namespace) -> "tuple[list[Sources], list[DataError]]":
    """Return every structure of a folder, or else in the cache, and files that cannot be used."""
    from bench.errors import UsageError
    from refsys.data.prepare.fetch import packages, prepared_sources
    from refsys.data.prepare.folder import folder_contents
    from refsys.data.store.store import Store
    from refsys.home import package_cache

    for option in ("alignment", "template", "realign", "assembly"):
        if getattr(arguments, option):
            raise UsageError(f"--{option} needs the structure that it belongs to")
    if arguments.folder:
        return folder_contents(arguments.folder)
    fetched = packages(package_cache())
    if missing := [p.name for p in fetched if p.core and not p.is_cached()]:
        raise UsageError(f"{', '.join(missing)} not in the cache; run 'foldperf fetch'")
    if not arguments.sweep:
        return list(prepared_sources(fetched)), []
    names = _entries_of(arguments.sweep)
    available = {
        name
        for package in fetched
        if package.is_cached()
        for source in package.sources
        for name in source.entries
    }
    prepared = Store(options.store(arguments)).entries()
    if unknown := sorted(names - available - set(prepared)):
        raise UsageError(
            f"--for {arguments.sweep}: {', '.join(unknown)} is in no package of the cache and was "
            "not prepared; run 'foldperf fetch --all'"
        )
    return list(prepared_sources(fetched, names)), []


def _entries_of(sweep: str) -> set[str]:
    """Return the names of the prepared entries that the cases of a sweep read."""
    from bench.run.sweep import find_sweep, read_sweep
    from workloads.catalogue import catalogue

    workloads = catalogue()
    cases = read_sweep(find_sweep(sweep), workloads).cases
    return {name for case in cases for name in workloads[case.workload].entries(case.config)}


def _fetched_database() -> Path:
    """Return the database of sequences in the cache."""
    from bench.errors import UsageError
    from refsys.data.prepare.fetch import packages
    from refsys.home import package_cache

    for package in packages(package_cache()):
        for database in package.databases:
            if database.is_cached():
                return database.cached
    raise UsageError(
        "no sequences to search in are in the cache; run 'foldperf fetch --all', or name a FASTA "
        "file with --database"
    )


def _require_libraries() -> None:
    from bench.errors import UsageError

    try:
        import biotite  # noqa: F401
        import gemmi  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"preparing structures needs {error.name}: pip install 'foldperf[data]'"
        ) from None
