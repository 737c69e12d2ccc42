"""Options that several commands share."""

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path("results")


def add_store(parser: argparse.ArgumentParser) -> None:
    """``--store``: the folder of prepared inputs."""
    from refsys.home import default_store

    parser.add_argument(
        "--store",
        type=Path,
        default=default_store(),
        metavar="DIR",
        help="prepared inputs (default: $FOLDPERF_STORE, else in the cache folder)",
    )


def add_results(parser: argparse.ArgumentParser) -> None:
    """``--results``: the folder of records."""
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="records (default: results)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``: output for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON for programs")


def print_json(value: Any) -> None:
    """Prints strict JSON."""
    print(json.dumps(value, indent=1, allow_nan=False))
