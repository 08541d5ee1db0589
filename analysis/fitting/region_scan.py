"""Where a confidence region lies: coordinates that cover it, row by row.

A row has one value of the first coordinate; the rows span that coordinate's profile interval, and
each has bounds of its own in the second coordinate. The regions of these laws are long and bent,
so that a box or an ellipse would be mostly empty, or too small.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsing.analysis.fitting.projection import Problem, Solution, bounds, grid_sse, solve
from sparsing.analysis.fitting.varpro import jacobian, refine
from sparsing.analysis.laws.sparsity import Coordinate, Floats

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


def scan(problem: Problem, best: Solution, limit_sse: float) -> Floats:
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
    middle = float(best.theta[0, 0])
    offsets = np.concatenate([-NEAR[::-1], [0.0], NEAR]) * width
    first = np.unique(np.clip(middle + offsets, low[0], high[0]))
    near = np.clip(best.theta + (first - middle)[:, None] * covariance[0] / variance, low, high)
    near[:, 0] = first
    beyond = middle + np.concatenate([-FAR, FAR]) * width
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
