"""Figure of the resources that kernels use on each architecture."""

from pathlib import Path
from typing import Any

from analysis.drawing import PAGE, STYLE, save_record
from analysis.errors import AnalysisError

NAME = "kernels"
# Inches of a table row.
_LINE = 0.19


def draw_kernels(record: dict[str, Any], folder: Path) -> Path:
    """Plot registers, occupancy and shared memory by kernel and architecture.

    Args:
        record: Record of ``foldperf compile``.
        folder: Output folder of the PDF, PNG and SVG files.

    Returns:
        The SVG file.

    Raises:
        AnalysisError: A library is missing, nothing was compiled, or the folder cannot be written.
    """
    figure = figure_of(record)
    try:
        return save_record(figure, folder, NAME, record, "kernel record")
    except OSError as error:
        raise AnalysisError(f"{folder}: {error.strerror}") from None


def figure_of(record: dict[str, Any]) -> Any:
    """Return the figure of a record of ``foldperf compile``.

    Raises:
        AnalysisError: A library is missing, or nothing was compiled.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise AnalysisError(
            f"figures need {error.name}: pip install 'foldperf[analysis]'"
        ) from None
    mpl.use("agg")
    from matplotlib import pyplot as plt

    by_name = {(_title(kernel), kernel["architecture"]): kernel for kernel in record["kernels"]}
    kernels = list(dict.fromkeys(title for title, _ in by_name))
    architectures = list(dict.fromkeys(name for _, name in by_name))
    if not by_name:
        raise AnalysisError("the record has no kernel to plot")
    with plt.style.context(STYLE):
        height = _LINE * len(kernels) + 0.8
        figure, axes = plt.subplots(figsize=(PAGE, height))
        shares = [
            [_occupancy(by_name.get((kernel, name))) for name in architectures]
            for kernel in kernels
        ]
        axes.imshow(shares, cmap="Greys", vmin=0, vmax=1.6, aspect="auto")
        for row, kernel in enumerate(kernels):
            for column, name in enumerate(architectures):
                text, broken = _cell(by_name.get((kernel, name)))
                axes.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center",
                    fontsize=5.5,
                    color="#D55E00" if broken else "black",
                    fontweight="bold" if broken else "normal",
                )
        axes.set_xticks(range(len(architectures)), architectures)
        axes.set_yticks(range(len(kernels)), kernels, fontsize=6)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_xlabel(
            "registers per thread, shared memory per program; violations are bold;\n"
            "shade: occupancy (resident warps / warps that a multiprocessor can hold)"
        )
    return figure


def _title(kernel: dict[str, Any]) -> str:
    width = f" ({kernel['width']})" if kernel["width"] else ""
    return f"{kernel['kernel']}{width}"


def _occupancy(kernel: dict[str, Any] | None) -> float:
    resources = kernel and kernel["resources"]
    return float(resources["occupancy"]) if resources else 0.0


def _cell(kernel: dict[str, Any] | None) -> tuple[str, bool]:
    """Return the text of a cell, and whether a rule is violated."""
    if kernel is None:
        return "", False
    broken = bool(kernel["violations"])
    has = kernel["resources"]
    if has is None:
        return "does not compile", True
    spilled = f", {has['spilled_bytes']} B spilled" if has["spilled_bytes"] else ""
    return f"{has['registers']}, {has['shared_bytes'] / 1024:.0f} KiB{spilled}", broken
