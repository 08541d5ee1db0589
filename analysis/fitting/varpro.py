"""The optimum of a law on a curve, without start values: grid, then Levenberg-Marquardt.

With the linear part projected out, a law has at most two coordinates left. A coarse grid over
their whole range finds the basin, a batched Levenberg-Marquardt iteration the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsing.analysis.fitting.projection import (
    Problem,
    Solution,
    bounds,
    dot,
    grid,
    grid_sse,
    solve,
    solve_shape,
)
from sparsing.analysis.laws.sparsity import STEP, Bools, Floats, Integers, Law, Span

MOST_DAMPING = 1e3
MAX_ITERATIONS = 60
CONVERGED = 1e-10
"""Relative improvement of the sum of squares below which a problem has converged."""


@dataclass
class _State:
    """Where each problem of a batch stands: solution and derivatives of its residuals."""

    theta: Floats
    start: Floats
    change: Floats
    residuals: Floats
    sse: Floats
    derivatives: Floats

    @property
    def solution(self) -> Solution:
        """Without the derivatives."""
        return Solution(self.theta, self.start, self.change, self.residuals, self.sse)

    def rows(self, rows: Integers) -> _State:
        """The problems at `rows`."""
        return _State(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def put(self, rows: Integers, other: _State) -> None:
        """Replace the problems at `rows` by those of another state."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] = getattr(other, name)

    def improved(self, better: Bools, other: _State) -> _State:
        """This state, with the problems that are `better` in another one taken from there."""
        if better.all():
            return other
        rows = np.flatnonzero(better)
        self.put(rows, other.rows(rows))
        return self


def refine(
    problem: Problem,
    theta: Floats,
    *,
    free: tuple[int, ...] | None = None,
    converged: float = CONVERGED,
    iterations: int = MAX_ITERATIONS,
) -> Solution:
    """Levenberg-Marquardt from theta (B, k) inside the bounds; coordinates not `free` stay.

    Whenever half of the batch has converged, the rest goes on alone.
    """
    free = tuple(range(theta.shape[1])) if free is None else free
    if not free:
        return solve(problem, theta)
    low, high = bounds(problem.law)
    whole = state = _look(problem, theta, free)
    rows, damping = np.arange(len(theta)), np.full(len(theta), 1e-3)
    for _ in range(iterations):
        step = _step(state, damping, low, high, free)
        trial = _look(problem, np.clip(state.theta + step, low, high), free)
        gained, limit = state.sse - trial.sse, state.sse
        better = gained > 0
        # A step refused at high damping, or that changes nothing, ends at a minimum, too.
        stuck = (damping > MOST_DAMPING) | (-gained <= 1e-14 * limit)
        done = np.where(better, gained <= converged * limit, stuck)
        state = state.improved(better, trial)
        damping *= np.where(better, 1 / 8, 8)
        if 2 * np.count_nonzero(done) >= len(done):
            whole, left = _merged(whole, rows, state), np.flatnonzero(~done)
            if not len(left):
                return whole.solution
            rows, damping = rows[left], damping[left]
            state, problem = state.rows(left), problem.take(left)
    return _merged(whole, rows, state).solution


def _merged(whole: _State, rows: Integers, part: _State) -> _State:
    """The whole batch with its problems at `rows` as they are in a part of it."""
    if len(rows) == len(whole.theta):
        return part
    whole.put(rows, part)
    return whole


def jacobian(problem: Problem, theta: Floats) -> Floats:
    """Derivatives of the projected residuals by all coordinates: theta (B, k) -> (B, k, n)."""
    return _look(problem, theta, tuple(range(theta.shape[1]))).derivatives


def _look(problem: Problem, theta: Floats, free: tuple[int, ...]) -> _State:
    """Solution and derivatives at theta (B, k), by Kaufman's form of the Jacobian.

    A coordinate moves the residuals as far as start and change cannot make up for it: its slope,
    less what of it lies in the plane of the constant and the shape; or, where the limit is bound
    to 0, on the line of the shape's distance to its limit.
    """
    law = problem.law
    shape, slopes = law.slopes(problem.tokens, theta, problem.span, free)
    linear = solve_shape(problem, theta, shape)
    moved = slopes * problem.root_weights[..., None, :]
    constant = problem.constant[..., None, :]
    moved -= dot(moved, constant)[..., None] * constant
    if linear.bound.any():
        limit_slopes = _limit_slopes(law, theta, problem.span, free)
        at_0 = (slopes - limit_slopes[..., None]) * problem.root_weights[..., None, :]
        moved = np.where(linear.bound[:, None, None], at_0, moved)
    basis = linear.basis[:, None]
    moved -= (dot(moved, basis) / linear.square[:, None])[..., None] * basis
    found = linear.solution
    moved *= -found.change[:, None, None]
    return _State(theta, found.start, found.change, found.residuals, found.sse, moved)


def _limit_slopes(law: Law, theta: Floats, span: Span, free: tuple[int, ...]) -> Floats:
    """Derivatives of the shape's limit by the coordinates `free`: (B, len(free))."""
    here = law.shape_limit(theta, span)
    columns = []
    for index in free:
        moved = theta.copy()
        moved[:, index] -= STEP
        columns.append((here - law.shape_limit(moved, span)) / STEP)
    return np.stack(columns, axis=1)


def _step(now: _State, damping: Floats, low: Floats, high: Floats, free: tuple[int, ...]) -> Floats:
    """The damped Gauss-Newton step (B, k) in one coordinate, or in both of two."""
    slopes = now.derivatives
    gradient = dot(slopes, now.residuals[:, None])
    diagonal = dot(slopes, slopes) * (1 + damping[:, None]) + 1e-300
    if len(free) == 1:
        step = np.zeros_like(now.theta)
        step[:, free[0]] = -gradient[:, 0] / diagonal[:, 0]
        return step
    # A coordinate pressed against its bound takes no part; the rest is Cramer's rule.
    pressed = np.where(gradient > 0, now.theta <= low, now.theta >= high)
    gradient = np.where(pressed, 0.0, gradient)
    cross = dot(slopes[:, 0], slopes[:, 1]) * ~pressed.any(-1)
    determinant = diagonal[:, 0] * diagonal[:, 1] - cross**2 + 1e-300
    step = cross[:, None] * gradient[:, ::-1] - diagonal[:, ::-1] * gradient
    return step / determinant[:, None]


def best_fit(
    problem: Problem,
    *,
    starts: int = 2,
    converged: float = CONVERGED,
    iterations: int = MAX_ITERATIONS,
) -> Solution:
    """The optimum for each problem of a batch (B, n): grid, then refinement of the best basins.

    On 2,000 random curves one start was within 0.1 % of the optimum on all but two.
    """
    points = grid(problem.law)
    chosen = _starts(points, grid_sse(problem, points), starts)
    batch, count = chosen.shape[:2]
    repeated = problem.repeat(batch, count)
    found = refine(
        repeated,
        chosen.reshape(batch * count, -1),
        converged=converged,
        iterations=iterations,
    )
    pick = np.arange(batch) * count + found.sse.reshape(batch, count).argmin(1)
    return found.rows(pick)


def _starts(points: Floats, sse: Floats, count: int) -> Floats:
    """The best grid point in each of `count` bands of the first coordinate: (B, count, k)."""
    bands = np.array_split(np.arange(len(points)), min(count, len(points)))
    best = np.stack([band[sse[:, band].argmin(1)] for band in bands], axis=1)
    return points[best]
