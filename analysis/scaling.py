"""Power laws fitted to the growth of a quantity with the number of tokens.

At small sizes, constants (weights, launch overheads) hide the growth. Laws are therefore fitted to
the largest sizes alone: those within a factor of two of the largest, or the four largest. A law of
fewer than four sizes, or whose exponent has a 95 % margin above 0.3, says nothing and is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_SIZES = 4
WIDEST_MARGIN = 0.3


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Power law y = factor · N^exponent, fitted to logarithms by least squares.

    Attributes:
        exponent: Slope of the logarithms.
        interval: 95 % interval of the slope, from the residuals.
        factor: y at N = 1.
        smallest: Smallest N fitted.
        largest: Largest N fitted.
        centre: Mean of the logarithms of the N fitted.
        level: Half of the 95 % interval of log y at the centre.
    """

    exponent: float
    interval: tuple[float, float]
    factor: float
    smallest: float
    largest: float
    centre: float = 0.0
    level: float = 0.0

    def at(self, tokens: float) -> float:
        """Return the fitted y at N tokens."""
        return self.factor * tokens**self.exponent

    @property
    def margin(self) -> float:
        """Half of the interval of the exponent."""
        return (self.interval[1] - self.interval[0]) / 2

    def band(self, tokens: float) -> tuple[float, float]:
        """Return the 95 % interval of the fitted y at N tokens."""
        away = self.margin * (np.log(tokens) - self.centre)
        width = float(np.exp(np.hypot(self.level, away)))
        return self.at(tokens) / width, self.at(tokens) * width

    def __str__(self) -> str:
        return f"N^{self.exponent:.2f} ± {self.margin:.2f}"


def largest_sizes(sizes: Sequence[float]) -> list[float]:
    """Return the sizes to which a law is fitted, ascending."""
    ordered = sorted(set(sizes))
    near = [size for size in ordered if 2 * size >= ordered[-1]]
    return near if len(near) >= FEWEST_SIZES else ordered[-FEWEST_SIZES:]


def fit_power_law(points: Sequence[tuple[float, float]]) -> PowerLaw | None:
    """Fit a power law to (tokens, value) points; a size may have several points.

    Returns:
        The fitted law; None with fewer than `FEWEST_SIZES` sizes, or with a margin of the exponent
        above `WIDEST_MARGIN`.
    """
    positive = [(n, y) for n, y in points if n > 0 and y > 0]
    sizes = set(largest_sizes([n for n, _ in positive]) if positive else ())
    pairs = [(n, y) for n, y in positive if n in sizes]
    if len(sizes) < FEWEST_SIZES:
        return None
    from scipy import stats

    x, y = np.log([n for n, _ in pairs]), np.log([y for _, y in pairs])
    fit = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(pairs) - 2)) * float(fit.stderr)
    if half > WIDEST_MARGIN:
        return None
    return PowerLaw(
        exponent=float(fit.slope),
        interval=(float(fit.slope) - half, float(fit.slope) + half),
        factor=float(np.exp(fit.intercept)),
        smallest=min(sizes),
        largest=max(sizes),
        centre=float(np.mean(x)),
        # The error of the mean is that of the slope times the spread of log N.
        level=half * float(np.std(x)),
    )
