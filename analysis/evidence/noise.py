"""The noise of a curve as it is: correlated from point to point, larger or smaller later.

Both are estimated from one law's residuals by restricted maximum likelihood, averaged over a small
grid: residuals that follow each other by `rho` (AR(1), in the order of the points), a variance
that goes as tokens^-power. Priors keep few points from claiming either.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsing.analysis.fitting.points import Points
from sparsing.analysis.fitting.projection import Solution
from sparsing.analysis.laws.sparsity import Floats, Law

RHO_GRID = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.88])
POWER_GRID = np.array([-1.0, 0.0, 1.0, 2.0])
RHO_PRIOR = 4.0
"""The prior of rho goes as (1 - rho)^4: residuals of the published curves are nearly white."""
POWER_SPREAD = 1.0
"""Standard deviation of the power's normal prior."""
FEWEST = 8
"""Fewer points than these say nothing about their noise but its size."""


class Noise(NamedTuple):
    """What the residuals of a curve are like, beyond their size."""

    rho: float
    """Correlation of neighbouring residuals; posterior mean."""
    power: float
    """Variance goes as tokens^-power; posterior mean."""
    inflation: float
    """Variance of a mean of residuals, in multiples of independent ones': (1 + rho) / (1 - rho)."""


WHITE = Noise(0.0, 0.0, 1.0)


def design(law: Law, solution: Solution, points: Points) -> Floats:
    """Derivatives of the law by start, change and coordinates at a solution (of 1): (n, 2 + k).

    Those by the coordinates are per unit of change.
    """
    theta, count = solution.theta, len(law.coordinates)
    if count:
        shape, slopes = law.slopes(points.tokens, theta, points.span, tuple(range(count)))
        rows = np.concatenate([shape, slopes[0]])
    else:
        rows = law.shape(points.tokens, theta, points.span)
    return np.concatenate([np.ones((1, len(points.tokens))), rows]).T


def estimate_noise(law: Law, solution: Solution, points: Points, weights: Floats) -> Noise:
    """The noise of points about a law's solution (of 1), given weights (n,) before any power."""
    count = len(points.tokens)
    if count < FEWEST:
        return WHITE
    columns = design(law, solution, points)
    columns /= np.sqrt((columns**2).sum(0)) + 1e-300
    log_tokens = np.log(points.tokens / points.tokens[-1])
    scores = np.empty((len(POWER_GRID), len(RHO_GRID)))
    for i, power in enumerate(POWER_GRID):
        root = np.sqrt(weights * np.exp(power * log_tokens))
        both = np.column_stack([columns, points.values]) * root[:, None]
        prior = np.log(root).sum() - 0.5 * (power / POWER_SPREAD) ** 2
        scores[i] = [_restricted(both, rho) + prior for rho in RHO_GRID]
    chance = np.exp(scores - scores.max())
    chance /= chance.sum()
    by_rho, by_power = chance.sum(0), chance.sum(1)
    inflation = by_rho @ ((1 + RHO_GRID) / (1 - RHO_GRID))
    return Noise(
        float(by_rho @ RHO_GRID),
        float(by_power @ POWER_GRID),
        float(min(inflation, count / (columns.shape[1] + 2.0))),
    )


def _restricted(both: Floats, rho: float) -> float:
    """Restricted log likelihood, with its prior, of AR(1) residuals; `both`: design and values."""
    innovation = np.sqrt(1 - rho**2)
    white = both.copy()
    white[1:] = (both[1:] - rho * both[:-1]) / innovation
    triangle = np.abs(np.diag(np.linalg.qr(white, mode="r")))
    freedom = len(both) - both.shape[1] + 1
    determinants = np.log(triangle[:-1] + 1e-12).sum() + (len(both) - 1) * np.log(innovation)
    return float(
        RHO_PRIOR * np.log(1 - rho) - determinants - freedom * np.log(triangle[-1] + 1e-15)
    )
