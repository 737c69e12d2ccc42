"""Configuration of the documentation site, which ``make docs`` builds with Sphinx.

Sphinx checks every reference and has many maintainers; the base of mkdocs-material is announced as
unmaintained.
"""

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
# The packages of this checkout, and the directives beside this file.
sys.path[:0] = [str(ROOT), str(DOCS)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ("refsys", "workloads", "bench", "analysis")

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
release = PROJECT["version"]
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "page_directives",
]

exclude_patterns = ["api/*/modules.rst"]

# Guides are written for GitHub too: links to files, with the anchors that it gives to headings.
myst_heading_anchors = 4

# One page for each package, with its modules.
apidoc_modules = [
    {
        "path": str(ROOT / package),
        "destination": f"api/{package}",
        "module_first": True,
        "exclude_patterns": ["*/__main__.py"],
        "automodule_options": {"members", "show-inheritance"},
    }
    for package in PACKAGES
]
# A name in backticks is a link if it is one of a documented object.
default_role = "py:obj"
# A name that a package imports from a module of its own is documented there.
autodoc_default_options = {"ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"{project} {release}"
