"""Power laws fitted to the growth of a quantity with the number of tokens.

At small sizes, constants (weights, launch overheads) hide the growth. Laws are therefore fitted to
the largest sizes alone: those within a factor of two of the largest, or the three largest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Power law y = factor · N^exponent, fitted to logarithms by least squares.

    Attributes:
        exponent: Slope of the logarithms.
        interval: 95 % interval of the slope, from the residuals; None with only two points.
        factor: y at N = 1.
        smallest: Smallest N fitted.
        largest: Largest N fitted.
        centre: Mean of the logarithms of the N fitted.
        level: Half of the 95 % interval of log y at the centre; 0 with only two points.
    """

    exponent: float
    interval: tuple[float, float] | None
    factor: float
    smallest: float
    largest: float
    centre: float = 0.0
    level: float = 0.0

    def at(self, tokens: float) -> float:
        """Return the fitted y at N tokens."""
        return self.factor * tokens**self.exponent

    @property
    def margin(self) -> float | None:
        """Half of the interval of the exponent; None without an interval."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2

    def band(self, tokens: float) -> tuple[float, float]:
        """Return the 95 % interval of the fitted y at N tokens."""
        away = (self.margin or 0.0) * (np.log(tokens) - self.centre)
        width = float(np.exp(np.hypot(self.level, away)))
        return self.at(tokens) / width, self.at(tokens) * width

    def __str__(self) -> str:
        spread = "" if self.margin is None else f" ± {self.margin:.2f}"
        return f"N^{self.exponent:.2f}{spread}"


def largest_sizes(sizes: Sequence[float]) -> list[float]:
    """Return the sizes to which a law is fitted, ascending."""
    ordered = sorted(set(sizes))
    near = [size for size in ordered if 2 * size >= ordered[-1]]
    return near if len(near) >= 3 else ordered[-3:]


def fit_power_law(points: Sequence[tuple[float, float]]) -> PowerLaw | None:
    """Fit a power law to (tokens, value) points; a size may have several points.

    Returns:
        The fitted law, or None with fewer than two sizes.
    """
    positive = [(n, y) for n, y in points if n > 0 and y > 0]
    sizes = set(largest_sizes([n for n, _ in positive]) if positive else ())
    pairs = [(n, y) for n, y in positive if n in sizes]
    if len(sizes) < 2:
        return None
    from scipy import stats

    x, y = np.log([n for n, _ in pairs]), np.log([y for _, y in pairs])
    fit = stats.linregress(x, y)
    interval, level = None, 0.0
    if len(pairs) > 2:
        quantile = float(stats.t.ppf(0.975, len(pairs) - 2))
        half = quantile * float(fit.stderr)
        interval = (float(fit.slope) - half, float(fit.slope) + half)
        # The error of the mean is that of the slope times the spread of log N.
        level = half * float(np.std(x))
    return PowerLaw(
        exponent=float(fit.slope),
        interval=interval,
        factor=float(np.exp(fit.intercept)),
        smallest=min(sizes),
        largest=max(sizes),
        centre=float(np.mean(x)),
        level=level,
    )
