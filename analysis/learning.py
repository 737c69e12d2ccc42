"""Learning curve of a run over repeated samples."""

from pathlib import Path
from typing import Any

from analysis.drawing import STYLE, save_record
from analysis.errors import AnalysisError

NAME = "learning"
# Parts of the loss that are plotted besides the one that must fall.
_PARTS = {"mse": "mean squared error", "smooth_lddt": "smooth lDDT", "distogram": "distogram"}


def draw_learning(record: dict[str, Any], folder: Path) -> Path:
    """Plot each part of the loss relative to its first pass, and return the SVG file.

    Args:
        record: Learning record.
        folder: Output folder of the PDF, PNG and SVG files.

    Raises:
        AnalysisError: A library is missing, or the folder cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise AnalysisError(
            f"figures need {error.name}: pip install 'foldperf[analysis]'"
        ) from None
    mpl.use("agg")
    from matplotlib import pyplot as plt

    curve, loss, config = record["curve"], record["loss"], record["config"]
    steps = [point["steps"] for point in curve]
    names = {loss: f"{loss} loss"} | _PARTS
    with plt.style.context(STYLE):
        figure, axes = plt.subplots()
        for number, (name, label) in enumerate(names.items()):
            values = [point["losses"][name] for point in curve]
            axes.plot(
                steps,
                [value / values[0] for value in values],
                "-" if name == loss else ("--", ":", "-.")[number - 1],
                color=f"C{number}",
                lw=1.6 if name == loss else 1.0,
                label=f"{label}: {values[0]:.2f} to {values[-1]:.2f}",
            )
        axes.axhline(1.0, color="0.8", lw=0.6, zorder=0)
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel(
            f"steps ({config['repeat']} samples of {', '.join(config['entries'])}, repeated)"
        )
        axes.set_ylabel("loss relative to the first pass")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    try:
        return save_record(figure, folder, NAME, record, "learning record")
    except OSError as error:
        raise AnalysisError(f"{folder}: {error.strerror}") from None
