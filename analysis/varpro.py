"""The optimum of a law on a curve, without start values: grid, then Levenberg-Marquardt.

With the linear part projected out, a law has at most two coordinates left. A coarse grid over
their whole range finds the basin, a batched Levenberg-Marquardt iteration the optimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.laws import STEP, Floats, Integers, Law, Span
from analysis.projection import (
    Problem,
    Solution,
    bounds,
    dot,
    grid,
    grid_sse,
    solve,
    solve_shape,
)

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

    def rows(self, rows: Integers) -> _State:
        """The problems at `rows`."""
        return _State(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def put(self, rows: Integers, other: _State, taken: Integers) -> None:
        """Replace the problems at `rows` by those at `taken` of another state."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] = getattr(other, name)[taken]


def refine(
    problem: Problem,
    theta: Floats,
    *,
    free: tuple[int, ...] | None = None,
    converged: float = CONVERGED,
    iterations: int = MAX_ITERATIONS,
) -> Solution:
    """Levenberg-Marquardt from theta (B, k) inside the bounds; coordinates not `free` stay.

    Problems that have converged leave the batch.
    """
    low, high = bounds(problem.law)
    free = tuple(range(theta.shape[1])) if free is None else free
    if not free:
        return solve(problem, theta)
    state = _look(problem, theta, free)
    damping, active = np.full(len(theta), 1e-3), np.arange(len(theta))
    for _ in range(iterations):
        now, part = state, problem
        if len(active) < len(theta):
            now, part = state.rows(active), problem.take(active)
        step = _step(now, damping[active], free, low, high)
        trial = _look(part, np.clip(now.theta + step, low, high), free)
        better = trial.sse < now.sse
        gained = now.sse - trial.sse
        # A step that is refused at high damping, or is none, ends at a minimum, too.
        done = np.where(better, gained <= converged * now.sse, damping[active] > MOST_DAMPING)
        done |= ~better & (-gained <= 1e-14 * now.sse)
        taken = np.flatnonzero(better)
        state.put(active[taken], trial, taken)
        damping[active] *= np.where(better, 1 / 8, 8)
        active = active[~done]
        if not len(active):
            break
    return Solution(state.theta, state.start, state.change, state.residuals, state.sse)


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
    found, bound = solve_shape(problem, theta, shape)
    weights, root = problem.weights, problem.root_weights
    mean = dot(weights, shape) / np.add.reduce(weights, -1)
    basis = (shape - mean[:, None]) * root
    moved = slopes * root[..., None, :]
    constant = root / np.sqrt(np.add.reduce(weights, -1))[..., None]
    moved -= np.einsum("...kn,...n->...k", moved, constant)[..., None] * constant[..., None, :]
    if bound.any():
        limit_shape = law.shape_limit(theta, problem.span)
        limit_slopes = _limit_slopes(law, theta, problem.span, free)
        at_bound = (slopes - limit_slopes[..., None]) * root[..., None, :]
        moved = np.where(bound[:, None, None], at_bound, moved)
        basis = np.where(bound[:, None], (shape - limit_shape[:, None]) * root, basis)
    square = np.maximum(dot(basis, basis), 1e-300)
    moved -= (np.einsum("...kn,...n->...k", moved, basis) / square[:, None])[..., None] * basis[
        :, None
    ]
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


def _step(now: _State, damping: Floats, free: tuple[int, ...], low: Floats, high: Floats) -> Floats:
    """The damped Gauss-Newton step; coordinates pressed against a bound do not move."""
    at, slopes = now.theta[:, free], now.derivatives
    gradient = np.einsum("bkn,bn->bk", slopes, now.residuals)
    pressed = np.where(gradient > 0, at <= low[free,], at >= high[free,])
    gradient = np.where(pressed, 0.0, gradient)
    diagonal = np.einsum("bkn,bkn->bk", slopes, slopes) * (1 + damping[:, None]) + 1e-300
    step = np.zeros_like(now.theta)
    if len(free) == 1:
        step[:, free] = -gradient / diagonal
        return step
    # Two coordinates: Cramer's rule; a pressed one takes no part.
    cross = dot(slopes[:, 0], slopes[:, 1]) * ~pressed.any(-1)
    determinant = diagonal[:, 0] * diagonal[:, 1] - cross**2 + 1e-300
    step[:, free] = (cross[:, None] * gradient[:, ::-1] - diagonal[:, ::-1] * gradient) / (
        determinant[:, None]
    )
    return step


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
