"""Directives whose content is derived from the repository, see `derived_pages`.

``metric-methods`` lists every metric with the methods by which committed records have it,
``figure-gallery`` every figure with its description and guide, ``examples`` every example.
"""

import re

from derived_pages import example_page, gallery_page, metric_page
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class DerivedPage(SphinxDirective):
    """Directive that is replaced by the Markdown of `lines`."""

    lines = staticmethod(metric_page)

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the page."""
        return self.parse_text_to_nodes("\n".join(self.lines()), allow_section_headings=True)


class MetricMethods(DerivedPage):
    """Every metric."""


class FigureGallery(DerivedPage):
    """Every figure."""

    lines = staticmethod(gallery_page)


class Examples(DerivedPage):
    """Every example."""

    lines = staticmethod(example_page)


def escape_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Escape the types of attributes, whose names may end as references do: ``numpy.str_``."""
    del app, what, name, obj, options
    lines[:] = [
        re.sub(r"_\b", r"\_", line) if line.startswith(":vartype ") else line for line in lines
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    # After napoleon, which writes the types.
    app.connect("autodoc-process-docstring", escape_types, priority=900)
    app.add_directive("metric-methods", MetricMethods)
    app.add_directive("figure-gallery", FigureGallery)
    app.add_directive("examples", Examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
