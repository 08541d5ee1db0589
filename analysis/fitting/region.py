"""Profile-likelihood intervals: extremes of a quantity over the confidence region.

The region holds every solution whose sum of squares stays below `limit_sse`, the optimum's times
1 + F / (n - k) with the F quantile of 1 and n - k degrees of freedom. At given coordinates that
is an ellipse in (start, change), so that the extremes of a quantity there are known in closed
form; what is left is a scan over at most two coordinates. It is laid out row by row (first
coordinate) with each row's own bounds, for the regions of these laws are long and bent. A
quantity whose extreme lies at a bound of the region's scan has an open interval on that side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from sparsing.analysis.fitting.projection import Problem, Solution, bounds, least_mse, solve
from sparsing.analysis.fitting.region_scan import scan
from sparsing.analysis.laws.sparsity import Bools, Floats

Quantities = Callable[[Floats, Floats, Floats], Floats]
"""(theta (m, k), start (..., m), change (..., m)) -> values (q, ..., m)."""


class Extremes(NamedTuple):
    """Lowest and highest value of a quantity, and whether each lies at a bound of the scan.

    At a bound of a coordinate's range the region is cut off, and the value may go on.
    """

    low: float
    high: float
    low_at_bound: bool
    high_at_bound: bool


@dataclass(frozen=True)
class Region:
    """A confidence region, as candidates among which each quantity has its extremes.

    `theta` (m, k), `centre` the best solutions there.
    """

    problem: Problem
    best: Solution
    limit_sse: float
    theta: Floats
    centre: Solution
    trend: bool
    """False where a constant lies in the region: then nothing is identified."""

    def extremes(self, quantities: Quantities) -> list[Extremes]:
        """Lowest and highest value of each quantity over the region."""
        values = self._candidates(quantities)
        finite = np.isfinite(values)
        low = np.where(finite, values, np.inf).min(0)
        high = np.where(finite, values, -np.inf).max(0)
        return [self._extremes_of(*pair) for pair in zip(low, high, strict=True)]

    def _extremes_of(self, low: Floats, high: Floats) -> Extremes:
        """From a quantity's lowest and highest value at each point (m,)."""
        at_low, at_high = int(low.argmin()), int(high.argmax())
        return Extremes(
            float(low[at_low]),
            float(high[at_high]),
            bool(self.at_bound[at_low]),
            bool(self.at_bound[at_high]),
        )

    @cached_property
    def at_bound(self) -> Bools:
        """Which points lie at a bound of a coordinate's range: (m,)."""
        low, high = bounds(self.problem.law)
        return np.any((self.theta <= low) | (self.theta >= high), axis=-1)

    @cached_property
    def shape(self) -> Floats:
        """The law's shape at the problem's points: (m, n)."""
        return self.problem.law.shape(self.problem.tokens, self.theta, self.problem.span)

    @cached_property
    def mean_shape(self) -> Floats:
        """Weighted mean of the shape: (m,)."""
        return self.shape @ self.problem.weights / self.problem.weights.sum()

    @cached_property
    def spread(self) -> Floats:
        """Weighted sum of squares of the shape about its mean: (m,)."""
        return np.maximum(
            (self.shape - self.mean_shape[:, None]) ** 2 @ self.problem.weights, 1e-300
        )

    @cached_property
    def slack(self) -> Floats:
        """Root of the sum of squares that is left at each point: (m,)."""
        return np.sqrt(np.maximum(self.limit_sse - self.centre.sse, 0.0))

    def _candidates(self, quantities: Quantities) -> Floats:
        """The quantities wherever an ellipse may have its extreme: (candidates, q, m)."""
        theta, start, change = self.theta, self.centre.start, self.centre.change
        by_start, by_change = _gradients(quantities, theta, start, change)
        # The inverse normal matrix of (1, shape), times the gradients.
        pull_change = (by_change - by_start * self.mean_shape) / self.spread
        pull_start = by_start / self.problem.weights.sum() - pull_change * self.mean_shape
        length = np.sqrt(np.maximum(by_start * pull_start + by_change * pull_change, 1e-300))
        found = [quantities(theta, start, change)]
        each = np.arange(len(by_start))
        for reach in (self.slack / length, -self.slack / length):
            moved_start, moved_change = start + reach * pull_start, change + reach * pull_change
            values = quantities(theta, moved_start, moved_change)[each, each]
            found.append(np.where(self._allowed(moved_start, moved_change), values, np.nan))
        if self.problem.law.limit_not_negative:
            found += [
                np.where(inside, quantities(theta, -moved * self.limit_shape, moved), np.nan)
                for inside, moved in self._at_limit_zero
            ]
        return np.stack(found)

    @cached_property
    def limit_shape(self) -> Floats:
        """The law's shape at infinite tokens: (m,)."""
        return self.problem.law.shape_limit(self.theta, self.problem.span)

    def _allowed(self, start: Floats, change: Floats) -> Bools:
        """Whether the law's constraints hold at these solutions."""
        law = self.problem.law
        allowed = change * law.direction >= 0
        if law.limit_not_negative:
            allowed &= start + change * self.limit_shape >= 0
        return allowed

    @cached_property
    def _at_limit_zero(self) -> list[tuple[Bools, Floats]]:
        """The two changes at which the line of limit 0 leaves each ellipse, where it meets it."""
        weights, values = self.problem.weights, self.problem.values
        beyond = self.shape - self.limit_shape[:, None]
        square = beyond**2 @ weights
        change = beyond @ (weights * values) / square
        sse = (values - change[:, None] * beyond) ** 2 @ weights
        reach = np.sqrt(np.maximum(self.limit_sse - sse, 0.0) / square)
        direction = self.problem.law.direction
        return [
            ((sse <= self.limit_sse) & (moved * direction >= 0), moved)
            for moved in (change - reach, change + reach)
        ]


def confidence_region(
    problem: Problem, best: Solution, parameters: int, level: float
) -> Region | None:
    """The region at `level` around the optimum of one curve; None without degrees of freedom."""
    points = int((problem.weights > 0).sum())
    freedom = points - parameters
    if freedom < 1:
        return None
    quantile = stdtrit(freedom, 0.5 + level / 2) ** 2
    best_sse = max(float(best.sse[0]), points * least_mse(problem.values))
    limit_sse = best_sse * (1 + quantile / freedom)
    theta = scan(problem, best, limit_sse)
    centre = solve(problem, theta)
    inside = centre.sse <= limit_sse * (1 + 1e-9)
    theta, centre = theta[inside], centre.rows(np.flatnonzero(inside))
    weights = problem.weights / problem.weights.sum()
    constant = (problem.weights * (problem.values - weights @ problem.values) ** 2).sum()
    return Region(problem, best, limit_sse, theta, centre, bool(constant > limit_sse))


def _gradients(
    quantities: Quantities, theta: Floats, start: Floats, change: Floats
) -> tuple[Floats, Floats]:
    """Derivatives of the quantities by start and by change at each point: (q, m) each."""
    step = 1e-6 * np.maximum(np.abs(change), 1e-12)
    moved = np.stack([step, -step, 0 * step, 0 * step])
    values = quantities(theta, start + moved, change + moved[[2, 3, 0, 1]])
    by_start, by_change = values[:, 0] - values[:, 1], values[:, 2] - values[:, 3]
    return np.nan_to_num(by_start / (2 * step)), np.nan_to_num(by_change / (2 * step))
