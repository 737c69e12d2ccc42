"""What every kernel takes of every architecture, at a glance."""

from pathlib import Path
from typing import Any

from analysis.drawing import PAGE, STYLE, save_record
from analysis.errors import AnalysisError

NAME = "kernels"
# Inches that a line of the table takes.
_LINE = 0.19


def draw_kernels(record: dict[str, Any], folder: Path) -> Path:
    """Draws registers, occupancy and shared memory by kernel and architecture.

    Args:
        record: Of ``foldperf compile``.
        folder: Where the figure goes, as PDF, PNG and SVG.

    Returns:
        The SVG file.

    Raises:
        AnalysisError: a library is missing, nothing was compiled, or the folder cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise AnalysisError(f"figures need {error.name}: pip install 'foldperf[report]'") from None
    mpl.use("agg")
    from matplotlib import pyplot as plt

    found = {(_title(each), each["architecture"]): each for each in record["kernels"]}
    kernels = list(dict.fromkeys(title for title, _ in found))
    architectures = list(dict.fromkeys(name for _, name in found))
    if not found:
        raise AnalysisError("the record has no kernel to draw")
    with plt.style.context(STYLE):
        height = _LINE * len(kernels) + 0.8
        figure, axes = plt.subplots(figsize=(PAGE, height))
        shares = [
            [_occupancy(found.get((kernel, name))) for name in architectures] for kernel in kernels
        ]
        axes.imshow(shares, cmap="Greys", vmin=0, vmax=1.6, aspect="auto")
        for row, kernel in enumerate(kernels):
            for column, name in enumerate(architectures):
                text, broken = _cell(found.get((kernel, name)))
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
            "registers of a thread, shared memory of a program; a broken rule is bold;\n"
            "the darker, the more of the warps that a multiprocessor holds are resident"
        )
    try:
        return save_record(figure, folder, NAME, record, "kernel record")
    except OSError as error:
        raise AnalysisError(f"{folder}: {error.strerror}") from None


def _title(kernel: dict[str, Any]) -> str:
    width = f" ({kernel['width']})" if kernel["width"] else ""
    return f"{kernel['kernel']}{width}"


def _occupancy(kernel: dict[str, Any] | None) -> float:
    resources = kernel and kernel["resources"]
    return float(resources["occupancy"]) if resources else 0.0


def _cell(kernel: dict[str, Any] | None) -> tuple[str, bool]:
    """What a cell says, and whether a rule is broken."""
    if kernel is None:
        return "", False
    broken = bool(kernel["violations"])
    has = kernel["resources"]
    if has is None:
        return "does not compile", True
    spilled = f", {has['spilled_bytes']} B spilled" if has["spilled_bytes"] else ""
    return f"{has['registers']}, {has['shared_bytes'] / 1024:.0f} KiB{spilled}", broken
