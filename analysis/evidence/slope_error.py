"""How far a law's slope is off where it has not been measured: its own forecasts tell.

A law that describes the points may still be wrong beyond them. Its error there is taken as a
relative error of the curve's recent slope per factor e of tokens: `size * slope * (1 - exp(-u))`
at u = log(tokens / last), so that it stays finite at infinite tokens. The law is fitted to first
parts of the curve; what its forecasts miss beyond their own uncertainty says how large the relative
error is. Besides, a curve may bend: with chance BEND_CHANCE its slope changes by about its own
size, which no earlier forecast can tell (docs/laws.md says how both were set).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from sparsing.analysis.evidence.noise import Noise, design
from sparsing.analysis.fitting.comparison import Compared
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.points import Points
from sparsing.analysis.laws.sparsity import Floats

SIZES = np.concatenate([[1e-4], np.geomspace(0.01, 6.0, 28)])
"""Relative errors of the slope that are looked at: standard deviations."""
PRIOR_SIZE, PRIOR_FREEDOM = 0.06, 4.0
"""Before any forecast the relative error's size is that of a t distribution."""
TEMPER = 0.5
"""Forecasts from overlapping parts count for half."""
BEND_CHANCE, BEND_SIZE = 0.12, 1.0
DISTANCES = np.concatenate([np.linspace(0.0, 8.0, 400), np.geomspace(8.1, 60.0, 60)])
RECENT, FEWEST_RECENT = 2.0, 4
"""The recent slope is that of the points within this factor of the last tokens, four at least."""
AHEAD = 1.5
"""Points up to this multiple of the last fitted tokens are forecast, one at least."""
LEAST_FREEDOM = 2
"""Forecasts of laws with fewer degrees of freedom are left out."""


@dataclass(frozen=True)
class Forecast:
    """One forecast of points that were there already."""

    fitted: int
    """Points that the law was fitted to."""
    factor: float
    """Tokens of the last point that was forecast, in multiples of the last fitted one."""
    error: float
    """Weighted mean of what was measured, less what was forecast: a share of neurons."""
    uncertainty: float
    """Standard deviation that the law and the noise give the error."""
    scale: float
    """Error that a relative slope error of 1 makes."""
    freedom: int
    """Degrees of freedom of the uncertainty."""


@dataclass(frozen=True)
class SlopeError:
    """The distribution of the relative slope error."""

    slope: float
    """Recent change of the curve per factor e of tokens: a share of neurons, positive."""
    chances: Floats
    """Of each of SIZES: (sizes,)."""
    forecasts: tuple[Forecast, ...]

    def half_width(self, factor: Floats, level: float, *, bends: bool) -> Floats:
        """Half the interval at `factor` (q,) times the last tokens: a share of neurons.

        `bends`: also for a curve that may bend.
        """
        grown = -np.expm1(-np.log(np.maximum(factor, 1.0)))
        return self._quantile(level, bends) * self.slope * grown

    def _quantile(self, level: float, bends: bool) -> float:
        within = self.chances @ (2 * ndtr(DISTANCES / SIZES[:, None]) - 1)
        if bends:
            bent = 2 * ndtr(DISTANCES / BEND_SIZE) - 1
            within = (1 - BEND_CHANCE) * within + BEND_CHANCE * bent
        return float(np.interp(level, within, DISTANCES))


def recent_slope(points: Points, count: int) -> float:
    """Size of the change per factor e of tokens over the last part of the first `count` points."""
    since = np.searchsorted(points.tokens, points.tokens[count - 1] / RECENT)
    first = max(min(int(since), count - FEWEST_RECENT), 0)
    log_tokens = np.log(points.tokens[first:count])
    log_tokens -= log_tokens.mean()
    square = log_tokens @ log_tokens
    return float(abs(log_tokens @ points.values[first:count]) / square) if square > 0 else 0.0


def slope_error(fit: Fit, noise: Noise) -> SlopeError:
    """The relative slope error of a fitted curve, by forecasts of its own law."""
    points = fit.points
    forecasts = _forecasts(fit.compared[fit.law], points, noise)
    scores = -0.5 * (PRIOR_FREEDOM + 1) * np.log1p((SIZES / PRIOR_SIZE) ** 2 / PRIOR_FREEDOM)
    scores += np.log(SIZES)
    for each in forecasts:
        variance = each.uncertainty**2 + (SIZES * each.scale) ** 2
        far = np.log1p(each.error**2 / variance / each.freedom)
        scores += TEMPER * (-0.5 * np.log(variance) - 0.5 * (each.freedom + 1) * far)
    chances = np.exp(scores - scores.max())
    slope = recent_slope(points, len(points.tokens))
    return SlopeError(slope, chances / chances.sum(), tuple(forecasts))


def _forecasts(compared: Compared, points: Points, noise: Noise) -> list[Forecast]:
    """How the fits of first parts forecast the points after them."""
    law, found, weights = compared.law, compared.found, points.weights
    count, parameters = len(points.tokens), 2 + len(law.coordinates)
    overall = float(found.sse[0]) / max(count - parameters, 1)
    forecasts = []
    for i, end in enumerate(compared.ends, start=1):
        freedom = end - parameters
        if freedom < LEAST_FREEDOM:
            continue
        until = np.searchsorted(points.tokens, AHEAD * points.tokens[end - 1], side="right")
        later = slice(end, max(int(until), end + 1))
        share = weights[later] / weights[later].sum()
        columns = design(law, found.rows(np.array([i])), points)
        columns[:, 2:] *= found.change[i]
        fitted = columns[:end] * np.sqrt(weights[:end])[:, None]
        variance = max(float(found.sse[i]) / freedom, 0.25 * overall)
        inverse = np.linalg.pinv(fitted.T @ fitted, rcond=1e-10, hermitian=True)
        mean = share @ columns[later]
        spread = mean @ inverse @ mean + 1 / weights[later].sum()
        factor = points.tokens[later] / points.tokens[end - 1]
        forecasts.append(
            Forecast(
                fitted=end,
                factor=float(factor[-1]),
                error=float(share @ compared.missed[i - 1, later]),
                uncertainty=float(np.sqrt(variance * noise.inflation * spread)) + 1e-15,
                scale=recent_slope(points, end) * float(share @ (1 - 1 / factor)),
                freedom=freedom,
            )
        )
    return forecasts
