"""Extension of Sphinx: directives whose content is derived from the repository.

``metric-methods`` lists every metric with the methods by which committed records have it,
``figure-gallery`` every figure with its description and guide, ``examples`` every example.
"""

from collections.abc import Callable, Sequence

from derived_pages import example_page, gallery_page, metric_page
from docstrings import escaped_types, untyped_returns
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


def correct(correction: Callable[[Sequence[str]], list[str]]) -> Callable[..., None]:
    """Return a listener that corrects a docstring."""

    def listen(
        app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
    ) -> None:
        del app, what, name, obj, options
        lines[:] = correction(lines)

    return listen


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives, and corrections before and after napoleon's."""
    app.connect("autodoc-process-docstring", correct(untyped_returns), priority=400)
    app.connect("autodoc-process-docstring", correct(escaped_types), priority=600)
    app.add_directive("metric-methods", MetricMethods)
    app.add_directive("figure-gallery", FigureGallery)
    app.add_directive("examples", Examples)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
