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

import numpy as np
from scipy.special import stdtrit

from analysis.laws import Bools, Floats
from analysis.varpro import Problem, Solution, grid_sse, jacobian, refine, solve

ROWS, COLUMNS = 33, 17
WIDTHS = np.array([0.15, 0.4, 0.8, 1.2, 1.7, 2.5, 4.0, 6.5, 11.0, 20.0])
"""Where the profile is looked at, in multiples of the half width that the curvature suggests."""
BISECTIONS = 14

Quantity = Callable[[Floats, Floats, Floats], Floats]
"""(theta (..., k), start (...), change (...)) -> value (...)."""


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

    def extremes(self, quantity: Quantity, *, inside: bool = False) -> tuple[float, float]:
        """Lowest and highest value of a quantity over the region; infinite where it diverges.

        With `inside`, over the points that are not at a bound of a coordinate's range.
        """
        values = self._candidates(quantity)
        if inside:
            values = values[:, ~self.at_bound]
        if not np.isfinite(values).any():
            return -np.inf, np.inf
        return float(np.nanmin(values)), float(np.nanmax(values))

    @property
    def at_bound(self) -> Bools:
        """Which points lie at a bound of a coordinate's range: (m,)."""
        coordinates = self.problem.law.coordinates
        low, high = np.array([c.low for c in coordinates]), np.array([c.high for c in coordinates])
        return np.any((self.theta <= low) | (self.theta >= high), axis=-1)

    def _candidates(self, quantity: Quantity) -> Floats:
        """The quantity at all points where an ellipse may have its extreme: (candidates, m)."""
        theta, start, change = self.theta, self.centre.start, self.centre.change
        problem = self.problem
        slack = np.sqrt(np.maximum(self.limit_sse - self.centre.sse, 0.0))
        shape = problem.law.shape(problem.tokens, theta, problem.span)
        inverse = _inverse_gram(problem.weights, shape)
        gradient = _gradient(quantity, theta, start, change)
        pull = np.einsum("mij,mj->mi", inverse, gradient)
        length = np.sqrt(np.maximum((gradient * pull).sum(-1), 1e-300))
        reach = (slack / length)[:, None] * pull
        found = [quantity(theta, start, change)]
        for sign in (-1.0, 1.0):
            moved_start, moved_change = start + sign * reach[:, 0], change + sign * reach[:, 1]
            values = quantity(theta, moved_start, moved_change)
            found.append(np.where(self._allowed(moved_start, moved_change), values, np.nan))
        if problem.law.limit_not_negative:
            found += self._at_limit_zero(quantity, shape)
        return np.stack(found)

    def _allowed(self, start: Floats, change: Floats) -> Bools:
        """Whether the law's constraints hold at these solutions."""
        law, problem = self.problem.law, self.problem
        allowed = change * law.direction >= 0 if law.direction else np.ones(len(start), bool)
        if law.limit_not_negative:
            allowed &= start + change * law.shape_limit(self.theta, problem.span) >= 0
        return allowed

    def _at_limit_zero(self, quantity: Quantity, shape: Floats) -> list[Floats]:
        """The two points where the line of limit 0 leaves each ellipse."""
        problem, law = self.problem, self.problem.law
        limit_shape = law.shape_limit(self.theta, problem.span)
        beyond = shape - limit_shape[:, None]
        square = (problem.weights * beyond**2).sum(-1)
        change = (problem.weights * beyond * problem.values).sum(-1) / square
        sse = (problem.weights * (problem.values - change[:, None] * beyond) ** 2).sum(-1)
        found = []
        for sign in (-1.0, 1.0):
            moved = change + sign * np.sqrt(np.maximum(self.limit_sse - sse, 0.0) / square)
            inside = (sse <= self.limit_sse) & (moved * law.direction >= 0)
            values = quantity(self.theta, -moved * limit_shape, moved)
            found.append(np.where(inside, values, np.nan))
        return found


def confidence_region(
    problem: Problem, best: Solution, parameters: int, level: float
) -> Region | None:
    """The region at `level` around the optimum of one curve; None without degrees of freedom."""
    points = int((problem.weights > 0).sum())
    freedom = points - parameters
    if freedom < 1:
        return None
    scale = np.abs(problem.values).max() * 1e-9
    quantile = stdtrit(freedom, 0.5 + level / 2) ** 2
    best_sse = max(float(best.sse[0]), points * scale**2)
    limit_sse = best_sse * (1 + quantile / freedom)
    theta = _scan(problem, best, limit_sse)
    centre = solve(problem, theta)
    inside = centre.sse <= limit_sse * (1 + 1e-9)
    theta = theta[inside]
    centre = Solution(*(getattr(centre, f)[inside] for f in Solution.__dataclass_fields__))
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
    low = _row_end(problem, rows, inner, limit_sse, problem.law.coordinates[1].low)
    high = _row_end(problem, rows, inner, limit_sse, problem.law.coordinates[1].high)
    share = (1 - np.cos(np.linspace(0, np.pi, COLUMNS))) / 2
    second = low[:, None] + (high - low)[:, None] * share
    first = np.broadcast_to(rows[:, :1], second.shape)
    scanned = np.stack([first, second], axis=-1).reshape(-1, 2)
    return np.concatenate([best.theta, rows, scanned])


def _profile(problem: Problem, best: Solution, limit_sse: float) -> tuple[Floats, Floats]:
    """Rows (ROWS, k) across the first coordinate's interval, the others at their best; their SSE.

    The interval's ends come from the signed root of the profile, interpolated.
    """
    coordinate = problem.law.coordinates[0]
    seen = _inner_best(problem, _first_look(problem, best, limit_sse))
    order = np.argsort(seen.theta[:, 0])
    at, sse = seen.theta[order, 0], seen.sse[order]
    middle = float(best.theta[0, 0])
    rise = np.sqrt(np.maximum(sse - float(best.sse[0]), 0.0))
    bound = np.sqrt(max(limit_sse - float(best.sse[0]), 0.0))
    low = _crossing(at[at <= middle][::-1], rise[at <= middle][::-1], bound, coordinate.low)
    high = _crossing(at[at >= middle], rise[at >= middle], bound, coordinate.high)
    share = (1 - np.cos(np.linspace(0, np.pi, ROWS))) / 2
    rows = np.empty((ROWS, best.theta.shape[1]))
    rows[:, 0] = low + (high - low) * share
    for other in range(1, best.theta.shape[1]):
        rows[:, other] = np.interp(rows[:, 0], at, seen.theta[order, other])
    found = _inner_best(problem, rows)
    return found.theta, found.sse


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


def _first_look(problem: Problem, best: Solution, limit_sse: float) -> Floats:
    """Where to look at the profile: near the optimum by its curvature, far off by the grid."""
    coordinates = problem.law.coordinates
    high = np.array([c.high for c in coordinates])
    low = np.array([c.low for c in coordinates])
    batch = replace(problem, values=problem.values[None])
    derivatives = jacobian(batch, best, tuple(range(len(coordinates))), high)[0]
    covariance = np.linalg.pinv(derivatives.T @ derivatives, hermitian=True)
    variance = max(float(covariance[0, 0]), 1e-24)
    width = np.sqrt(max(limit_sse - float(best.sse[0]), 0.0) * variance)
    offsets = np.concatenate([-WIDTHS[::-1], WIDTHS]) * width
    near = best.theta + offsets[:, None] * covariance[0] / variance
    far = coordinates[0].grid[:, None]
    if len(coordinates) == 2:
        points = np.stack(np.meshgrid(coordinates[0].grid, coordinates[1].grid, indexing="ij"), -1)
        sse = grid_sse(problem, points.reshape(-1, 2))[0].reshape(points.shape[:2])
        far = points[np.arange(len(points)), sse.argmin(1)]
    return np.concatenate([np.clip(near, low, high), best.theta, far])


def _inner_best(problem: Problem, theta: Floats) -> Solution:
    """The best solutions with the first coordinate fixed: a batch of one-dimensional fits."""
    return refine(problem, theta, free=tuple(range(1, theta.shape[1])))


def _row_end(problem: Problem, rows: Floats, sse: Floats, limit_sse: float, end: float) -> Floats:
    """Each row's second coordinate where it leaves the region towards `end`, by bisection."""
    inside, outside = rows[:, 1].copy(), np.full(len(rows), end)
    probe = np.stack([rows[:, 0], outside], axis=-1)
    inside = np.where(solve(problem, probe).sse <= limit_sse, end, inside)
    for _ in range(BISECTIONS):
        probe[:, 1] = (inside + outside) / 2
        within = solve(problem, probe).sse <= limit_sse
        inside = np.where(within, probe[:, 1], inside)
        outside = np.where(within, outside, probe[:, 1])
    return inside


def _inverse_gram(weights: Floats, shape: Floats) -> Floats:
    """Inverse of the 2 x 2 normal matrix of (1, shape): (m, 2, 2)."""
    total = weights.sum()
    mean = shape @ weights / total
    variance = ((shape - mean[:, None]) ** 2) @ weights
    with np.errstate(divide="ignore"):
        inverse = 1 / np.maximum(variance, 1e-300)
    return np.stack(
        [
            np.stack([1 / total + mean**2 * inverse, -mean * inverse], axis=-1),
            np.stack([-mean * inverse, inverse], axis=-1),
        ],
        axis=-2,
    )


def _gradient(quantity: Quantity, theta: Floats, start: Floats, change: Floats) -> Floats:
    """Derivative of a quantity by (start, change) at each point: (m, 2)."""
    step = 1e-6 * np.maximum(np.abs(change), 1e-12)
    by_start = quantity(theta, start + step, change) - quantity(theta, start - step, change)
    by_change = quantity(theta, start, change + step) - quantity(theta, start, change - step)
    return np.nan_to_num(np.stack([by_start, by_change], axis=-1) / (2 * step[:, None]))
