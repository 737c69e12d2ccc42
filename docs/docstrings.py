"""Corrections to docstrings on their way to Sphinx, line by line."""

import re
from collections.abc import Sequence


def untyped_returns(lines: Sequence[str]) -> list[str]:
    """Return a docstring whose results have no type: annotations state it.

    Napoleon takes a sentence up to its first colon for the type. A leading colon leaves it empty.
    """
    out = list(lines)
    for index, line in enumerate(out[:-1]):
        if line.strip() in {"Returns:", "Yields:"}:
            text = out[index + 1].lstrip()
            out[index + 1] = f"{out[index + 1][: -len(text)]}: {text}" if text else text
    return out


def escaped_types(lines: Sequence[str]) -> list[str]:
    """Return a docstring with the types of attributes escaped.

    Their names may end as references do: ``numpy.str_``.
    """
    return [
        re.sub(r"_\b", r"\\_", line) if line.startswith(":vartype ") else line for line in lines
    ]
