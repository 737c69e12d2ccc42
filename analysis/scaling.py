"""How a quantity grows with the number of tokens: fitted power laws.

At small sizes constants (weights, launch overheads) hide the growth, so that the law is fitted to
the largest sizes alone: those within a factor of two of the largest, or the three largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """y = factor · N^exponent, fitted to logarithms by least squares.

    Attributes:
        exponent: The slope.
        interval: 95 % interval of the slope, from the residuals; None with two sizes alone.
        factor: y at N = 1.
        smallest: Smallest N fitted.
        largest: Largest N fitted.
    """

    exponent: float
    interval: tuple[float, float] | None
    factor: float
    smallest: float
    largest: float

    def at(self, tokens: float) -> float:
        """The fitted y at N tokens."""
        return self.factor * tokens**self.exponent

    def __str__(self) -> str:
        if self.interval is None:
            return f"N^{self.exponent:.2f}"
        return f"N^{self.exponent:.2f} ± {(self.interval[1] - self.interval[0]) / 2:.2f}"


def largest_sizes(sizes: Sequence[float]) -> list[float]:
    """The sizes that a law is fitted to, ascending."""
    ordered = sorted(set(sizes))
    near = [size for size in ordered if 2 * size >= ordered[-1]]
    return near if len(near) >= 3 else ordered[-3:]


def fit_power_law(points: Sequence[tuple[float, float]]) -> PowerLaw | None:
    """Fits a power law to (tokens, value) points, of which one size may have several.

    Returns:
        The law, or None with fewer than two sizes.
    """
    positive = [(n, y) for n, y in points if n > 0 and y > 0]
    sizes = set(largest_sizes([n for n, _ in positive]) if positive else ())
    pairs = [(n, y) for n, y in positive if n in sizes]
    if len(sizes) < 2:
        return None
    from scipy import stats

    x, y = np.log([n for n, _ in pairs]), np.log([y for _, y in pairs])
    fit = stats.linregress(x, y)
    interval = None
    if len(pairs) > 2:
        half = float(stats.t.ppf(0.975, len(pairs) - 2) * fit.stderr)
        interval = (float(fit.slope) - half, float(fit.slope) + half)
    return PowerLaw(
        float(fit.slope), interval, float(np.exp(fit.intercept)), min(sizes), max(sizes)
    )
