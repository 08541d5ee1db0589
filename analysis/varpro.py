"""Variable projection: the best `start` and `change` for given coordinates, in closed form.

With the linear part projected out, a law has at most two coordinates left. A coarse grid over
their whole range finds the basin, a batched Levenberg-Marquardt iteration the optimum: no start
value, no random restarts. Everything works on a batch of problems at once (starts, bootstrap
samples, rows of a confidence region); a batch of one is a curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.laws import STEP, Bools, Floats, Integers, Law, Span

MOST_DAMPING = 1e3
MAX_ITERATIONS = 60
CONVERGED = 1e-10
"""Relative improvement of the sum of squares below which a problem has converged."""


def least_mse(values: Floats) -> float:
    """Mean squared error below which a fit is perfect: beyond this are rounding errors."""
    return float(max((1e-9 * np.abs(values).max()) ** 2, 1e-30))


@dataclass(frozen=True)
class Problem:
    """Points to fit a law to: tokens (n,) in billions, values (..., n), weights (..., n).

    Weight 0 leaves a point out. Values and weights may be a batch; tokens are common to it.
    """

    law: Law
    tokens: Floats
    values: Floats
    weights: Floats
    span: Span

    @cached_property
    def root_weights(self) -> Floats:
        """Square roots of the weights."""
        return np.sqrt(self.weights)

    def take(self, rows: Integers) -> Problem:
        """The problems at `rows` of the batch."""
        return self._each(lambda column: column[rows])

    def repeat(self, batch: int, count: int) -> Problem:
        """A batch in which each problem comes `count` times, one after the other."""
        return self._each(
            lambda column: np.repeat(column, count, axis=0) if batch > 1 else column[0]
        )

    def _each(self, change: Callable[[Floats], Floats]) -> Problem:
        """The same problem with its batched columns changed; common ones stay."""
        values = change(self.values) if self.values.ndim > 1 else self.values
        weights = change(self.weights) if self.weights.ndim > 1 else self.weights
        return Problem(self.law, self.tokens, values, weights, self.span)


@dataclass(frozen=True)
class Solution:
    """Best linear part at given coordinates; every field has the shape of the batch.

    `residuals` (..., n) are multiplied by the square roots of the weights; `sse` is their sum of
    squares.
    """

    theta: Floats
    start: Floats
    change: Floats
    residuals: Floats
    sse: Floats

    def rows(self, rows: Integers) -> Solution:
        """The solutions at `rows` of the batch."""
        return Solution(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def solve(problem: Problem, theta: Floats) -> Solution:
    """The best allowed start and change at coordinates theta (..., k)."""
    return _solve(problem, theta, problem.law.shape(problem.tokens, theta, problem.span))[0]


def _solve(problem: Problem, theta: Floats, shape: Floats) -> tuple[Solution, Bools]:
    """The solution for a shape (..., n), and where the limit's constraint binds (...)."""
    law, weights, values = problem.law, problem.weights, problem.values
    total = np.add.reduce(weights, -1)
    mean_shape = _dot(weights, shape) / total
    centred = shape - mean_shape[..., None]
    weighted = weights * centred
    variance = np.maximum(_dot(weighted, centred), 1e-300)
    change = _dot(weighted, values) / variance
    if law.direction:
        change = np.maximum(change * law.direction, 0.0) * law.direction
    start = _dot(weights, values) / total - change * mean_shape
    bound: Bools = np.zeros(start.shape, dtype=bool)
    if law.limit_not_negative:
        start, change, bound = _keep_limit(problem, theta, shape, start, change)
    residuals = values - start[..., None] - change[..., None] * shape
    residuals *= problem.root_weights
    return Solution(theta, start, change, residuals, _dot(residuals, residuals)), bound


def _dot(left: Floats, right: Floats) -> Floats:
    """Sum of products over the points: (..., n), (..., n) -> (...)."""
    return np.einsum("...n,...n->...", left, right)


def _keep_limit(
    problem: Problem, theta: Floats, shape: Floats, start: Floats, change: Floats
) -> tuple[Floats, Floats, Bools]:
    """Where the limit would be negative: the best solution with limit 0."""
    limit_shape = problem.law.shape_limit(theta, problem.span)
    bound = start + change * limit_shape < 0
    if not bound.any():
        return start, change, bound
    beyond = shape - limit_shape[..., None]
    weighted = problem.weights * beyond
    at_zero = _dot(weighted, problem.values) / np.maximum(_dot(weighted, beyond), 1e-300)
    change = np.where(bound, at_zero, change)
    return np.where(bound, -at_zero * limit_shape, start), change, bound


def grid(law: Law) -> Floats:
    """The law's coarse grid, (points, k); one empty point for a law without coordinates."""
    axes = [coordinate.grid for coordinate in law.coordinates]
    if not axes:
        return np.zeros((1, 0))
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=-1)


def grid_sse(problem: Problem, theta: Floats) -> Floats:
    """Sums of squares of a batch of problems (B, n) at all theta (G, k): (B, G), by products.

    Less exact than `solve` where the fit is near perfect, but one matrix product for the batch.
    """
    law = problem.law
    values = np.atleast_2d(problem.values)
    weights = np.broadcast_to(problem.weights, values.shape)
    shape = law.shape(problem.tokens, theta, problem.span)
    total = weights.sum(-1, keepdims=True)
    centred = values - (weights * values).sum(-1, keepdims=True) / total
    weighted = weights * centred
    mean = weights @ shape.T / total
    variance = weights @ (shape**2).T - total * mean**2
    covariance = weighted @ shape.T
    change = np.where(variance > 1e-14, covariance / np.maximum(variance, 1e-14), 0.0)
    if law.direction:
        change = np.where(change * law.direction < 0, 0.0, change)
    sse = (weighted * centred).sum(-1, keepdims=True) - change * covariance
    if not law.limit_not_negative:
        return sse
    offset = (weights * values).sum(-1, keepdims=True) / total
    limit_shape = law.shape_limit(theta, problem.span)
    negative = offset + change * (limit_shape - mean) < 0
    if not negative.any():
        return sse
    against = covariance + offset * total * (mean - limit_shape)
    square = variance + total * (mean - limit_shape) ** 2
    bound = (weights * values**2).sum(-1, keepdims=True) - against**2 / np.maximum(square, 1e-300)
    return np.where(negative, bound, sse)


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


def bounds(law: Law) -> tuple[Floats, Floats]:
    """Lower and upper bounds of a law's coordinates, (k,) each."""
    return (
        np.array([coordinate.low for coordinate in law.coordinates]),
        np.array([coordinate.high for coordinate in law.coordinates]),
    )


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
    found, bound = _solve(problem, theta, shape)
    weights, root = problem.weights, problem.root_weights
    mean = _dot(weights, shape) / np.add.reduce(weights, -1)
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
    square = np.maximum(_dot(basis, basis), 1e-300)
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
    cross = _dot(slopes[:, 0], slopes[:, 1]) * ~pressed.any(-1)
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
