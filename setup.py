"""Build steps that pyproject.toml cannot express: archives carry the commit that they are made of.

Wheels and source archives have no repository beside them. Each gets the stamp that
``bench.records.provenance`` reads in its place, so that records of an installed copy name their
commit.
"""

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench.records import provenance
from refsys.files import write_json


def stamp() -> dict[str, Any] | None:
    """Return the commit and the source's hash; None where the commit is unknown."""
    state = provenance.git_state()
    return asdict(state) | {"source_sha256": provenance.source_sha256()} if state.sha else None


def write_stamp(folder: Path, content: dict[str, Any] | None) -> None:
    """Write a stamp, if there is one, into the folder that is packed."""
    if content:
        write_json(folder / provenance.STAMP, content)


class BuildWithStamp(build_py):
    """Build the packages from nothing, and stamp them."""

    def run(self) -> None:
        """Build into an empty folder; an editable installation has the repository itself."""
        if self.editable_mode:
            super().run()
            return
        # A file that an earlier build left here and the tree no longer has would be packed.
        for package in self.packages:
            shutil.rmtree(Path(self.build_lib, *package.split(".")), ignore_errors=True)
        super().run()
        write_stamp(Path(self.build_lib), stamp())


class SourceArchiveWithStamp(sdist):
    """Stamp a source archive, of which wheels can be built anywhere."""

    def make_release_tree(self, base_dir: str, files: Any) -> None:
        """Copy the files into a folder, and stamp it."""
        # First: the folder lies in the tree, and a new folder in it is a change.
        content = stamp()
        super().make_release_tree(base_dir, files)
        write_stamp(Path(base_dir), content)


setup(cmdclass={"build_py": BuildWithStamp, "sdist": SourceArchiveWithStamp})
