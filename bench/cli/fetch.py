"""``foldperf fetch``."""

import argparse

SUMMARY = "download real structures and MSAs from pinned packages"
EXAMPLE = "foldperf fetch\n  foldperf fetch --all"

# More entries than this are counted, not listed.
_FEW = 5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the choice between the core and all packages, which are pinned."""
    parser.add_argument(
        "--all", action="store_true", help="every package, about 240 MB, not the core alone"
    )


def run(arguments: argparse.Namespace) -> int:
    """Fetch the packages that the cache lacks."""
    from refsys.data.prepare.fetch import fetch, packages
    from refsys.home import package_cache

    selected = [p for p in packages(package_cache()) if p.core or arguments.all]
    for package, downloaded in fetch(selected):
        entries = [source.entry for source in package.sources]
        what = ", ".join(entries) if len(entries) <= _FEW else f"{len(entries)} structures"
        how = "fetched" if downloaded else "in the cache"
        name = f"{package.name} {package.version} ({package.licence})"
        other = "sequences to search in" if package.databases else "alignments"
        print(f"{name}: {what or other} {how}", flush=True)
    return 0
