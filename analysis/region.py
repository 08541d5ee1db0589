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
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from analysis.laws import Bools, Coordinate, Floats
from analysis.varpro import Problem, Solution, bounds, grid_sse, jacobian, least_mse, refine, solve

ROWS, COLUMNS = 25, 11
NEAR = np.array([0.3, 0.7, 1.0, 1.4, 2.2])
FAR = np.array([3.5, 7.0, 15.0])
"""Where the profile is looked at, in multiples of the half width that the curvature suggests;
besides, at the coarse grid's values."""
INNER_GRID = 32
ROUGHLY = 1e-4
"""Relative precision of the profile's sums of squares."""
PROBES = 7
"""Steps of the search for the end of a row."""

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
    theta = _scan(problem, best, limit_sse)
    centre = solve(problem, theta)
    inside = centre.sse <= limit_sse * (1 + 1e-9)
    theta, centre = theta[inside], centre.rows(np.flatnonzero(inside))
    weights = problem.weights / problem.weights.sum()
    constant = (problem.weights * (problem.values - weights @ problem.values) ** 2).sum()
    return Region(problem, best, limit_sse, theta, centre, bool(constant > limit_sse))


def _scan(problem: Problem, best: Solution, limit_sse: float) -> Floats:
    """Coordinates that cover the region: (m, k), the optimum among them."""
    count = len(problem.law.coordinates)
    if count == 0:
        return best.theta
    rows, inner = _profile(problem, best, limit_sse)
    if count == 1:
        return np.concatenate([best.theta, rows])
    low, high = _row_ends(problem, rows, inner, limit_sse)
    share = (1 - np.cos(np.linspace(0, np.pi, COLUMNS))) / 2
    second = low[:, None] + (high - low)[:, None] * share
    first = np.broadcast_to(rows[:, :1], second.shape)
    scanned = np.stack([first, second], axis=-1).reshape(-1, 2)
    return np.concatenate([best.theta, rows, scanned])


def _profile(problem: Problem, best: Solution, limit_sse: float) -> tuple[Floats, Floats]:
    """Rows (ROWS, k) across the first coordinate's interval, the others at their best; their SSE.

    The interval's ends come from the signed root of the profile, interpolated.
    """
    near, far = _where_to_look(problem, best, limit_sse)
    seen = _inner_best(problem, near)
    if seen.sse[0] < limit_sse or seen.sse[len(near) - 1] < limit_sse:
        further = _inner_best(problem, _inner_grid_best(problem, far))
        order = np.argsort(np.concatenate([seen.theta[:, 0], further.theta[:, 0]]))
        at = np.concatenate([seen.theta, further.theta])[order]
        sse = np.concatenate([seen.sse, further.sse])[order]
    else:
        at, sse = seen.theta, seen.sse
    low, high = _ends(at[:, 0], sse, best, limit_sse, problem.law.coordinates[0])
    rows = np.empty((ROWS, best.theta.shape[1]))
    rows[:, 0] = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, ROWS))) / 2
    for other in range(1, best.theta.shape[1]):
        rows[:, other] = np.interp(rows[:, 0], at[:, 0], at[:, other])
    found = _inner_best(problem, rows)
    return found.theta, found.sse


def _ends(
    at: Floats, sse: Floats, best: Solution, limit_sse: float, coordinate: Coordinate
) -> tuple[float, float]:
    """Where a profile, known at rising `at`, passes the limit on both sides of the optimum."""
    middle, best_sse = float(best.theta[0, 0]), float(best.sse[0])
    rise = np.sqrt(np.maximum(sse - best_sse, 0.0))
    bound = float(np.sqrt(max(limit_sse - best_sse, 0.0)))
    below, above = at <= middle, at >= middle
    return (
        _crossing(at[below][::-1], rise[below][::-1], bound, coordinate.low),
        _crossing(at[above], rise[above], bound, coordinate.high),
    )


def _crossing(at: Floats, rise: Floats, bound: float, end: float) -> float:
    """The first place, going outwards, where the signed root passes `bound`; else the end."""
    over = np.flatnonzero(rise > bound)
    if not len(over):
        return end
    i = int(over[0])
    if i == 0:
        return float(at[0])
    share = (bound - rise[i - 1]) / (rise[i] - rise[i - 1])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def _where_to_look(problem: Problem, best: Solution, limit_sse: float) -> tuple[Floats, Floats]:
    """Rising points (p, k) near the optimum, by its curvature; first coordinates further off."""
    coordinate = problem.law.coordinates[0]
    low, high = bounds(problem.law)
    batch = replace(problem, values=problem.values[None])
    derivatives = jacobian(batch, best.theta)[0]
    covariance = np.linalg.pinv(derivatives @ derivatives.T, hermitian=True)
    variance = max(float(covariance[0, 0]), 1e-24)
    width = np.sqrt(max(limit_sse - float(best.sse[0]), 0.0) * variance)
    offsets = np.concatenate([-NEAR[::-1], [0.0], NEAR])[:, None] * width
    near = np.clip(best.theta + offsets * covariance[0] / variance, low, high)
    beyond = float(best.theta[0, 0]) + np.concatenate([-FAR, FAR]) * width
    far = np.concatenate([np.clip(beyond, low[0], high[0]), coordinate.grid])
    return near, np.unique(far[(far < near[0, 0]) | (far > near[-1, 0])])


def _inner_grid_best(problem: Problem, first: Floats) -> Floats:
    """The best point of a finer grid of the second coordinate, at each value of the first."""
    if len(problem.law.coordinates) == 1:
        return first[:, None]
    low, high = bounds(problem.law)
    second = np.linspace(low[1], high[1], INNER_GRID)
    points = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
    sse = grid_sse(problem, points.reshape(-1, 2))[0].reshape(points.shape[:2])
    return points[np.arange(len(first)), sse.argmin(1)]


def _inner_best(problem: Problem, theta: Floats) -> Solution:
    """The best solutions with the first coordinate fixed: a batch of one-dimensional fits."""
    return refine(problem, theta, free=tuple(range(1, theta.shape[1])), converged=ROUGHLY)


def _row_ends(
    problem: Problem, rows: Floats, sse: Floats, limit_sse: float
) -> tuple[Floats, Floats]:
    """Each row's second coordinate where it leaves the region, downwards and upwards.

    Regula falsi (Illinois) on the root of the rise, which is nearly linear in the coordinate.
    """
    low, high = bounds(problem.law)
    end = np.concatenate([np.full(len(rows), low[1]), np.full(len(rows), high[1])])
    first, second = np.tile(rows.T, 2)
    floor = np.tile(sse, 2)
    reach = np.sqrt(np.maximum(limit_sse - floor, 0.0))

    def over(at: Floats) -> Floats:
        found = solve(problem, np.stack([first, at], axis=-1)).sse
        return np.sqrt(np.maximum(found - floor, 0.0)) - reach

    inside, inside_over = second.copy(), -reach
    outside, outside_over = end.copy(), over(end)
    open_end = outside_over <= 0
    for _ in range(PROBES):
        share = inside_over / np.where(outside_over > inside_over, inside_over - outside_over, -1.0)
        probe = inside + np.clip(share, 0.02, 0.98) * (outside - inside)
        probe_over = over(probe)
        within = probe_over <= 0
        # Halving the end that stays keeps the steps from creeping along one side.
        outside_over = np.where(within, outside_over / 2, probe_over)
        inside_over = np.where(within, probe_over, inside_over / 2)
        inside = np.where(within, probe, inside)
        outside = np.where(within, outside, probe)
    ends = np.where(open_end, end, inside)
    return ends[: len(rows)], ends[len(rows) :]


def _gradients(
    quantities: Quantities, theta: Floats, start: Floats, change: Floats
) -> tuple[Floats, Floats]:
    """Derivatives of the quantities by start and by change at each point: (q, m) each."""
    step = 1e-6 * np.maximum(np.abs(change), 1e-12)
    moved = np.stack([step, -step, 0 * step, 0 * step])
    values = quantities(theta, start + moved, change + moved[[2, 3, 0, 1]])
    by_start, by_change = values[:, 0] - values[:, 1], values[:, 2] - values[:, 3]
    return np.nan_to_num(by_start / (2 * step)), np.nan_to_num(by_change / (2 * step))
