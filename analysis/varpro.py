"""Variable projection: the best `start` and `change` for given coordinates, in closed form.

With the linear part projected out, a law has at most two coordinates left. A coarse grid over
their whole range finds the basin, a batched Levenberg-Marquardt iteration the optimum: no start
value, no random restarts. Everything works on a batch of problems at once (starts, bootstrap
samples, rows of a confidence region); a batch of one is a curve.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analysis.laws import Floats, Integers, Law, Span

DIFFERENCE_STEP = 1e-6
MAX_ITERATIONS = 60
CONVERGED = 1e-12
"""Relative improvement of the sum of squares below which a problem has converged."""


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

    def take(self, rows: Integers | slice) -> Problem:
        """The problems at `rows` of the batch."""
        weights = self.weights[rows] if self.weights.ndim > 1 else self.weights
        values = self.values[rows] if self.values.ndim > 1 else self.values
        return replace(self, values=values, weights=weights)


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


def solve(problem: Problem, theta: Floats) -> Solution:
    """The best allowed start and change at coordinates theta (..., k)."""
    law, weights, values = problem.law, problem.weights, problem.values
    shape = law.shape(problem.tokens, theta, problem.span)
    total = weights.sum(-1)
    mean_shape = (weights * shape).sum(-1) / total
    mean_value = (weights * values).sum(-1) / total
    centred = shape - mean_shape[..., None]
    weighted = weights * centred
    variance = (weighted * centred).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.where(variance > 0, (weighted * values).sum(-1) / variance, 0.0)
    if law.direction:
        change = np.where(change * law.direction < 0, 0.0, change)
    start = mean_value - change * mean_shape
    if law.limit_not_negative:
        start, change = _keep_limit(problem, theta, shape, start, change)
    fitted = start[..., None] + change[..., None] * shape
    residuals = np.sqrt(weights) * (values - fitted)
    return Solution(theta, start, change, residuals, (residuals**2).sum(-1))


def _keep_limit(
    problem: Problem, theta: Floats, shape: Floats, start: Floats, change: Floats
) -> tuple[Floats, Floats]:
    """Where the limit would be negative: the best solution with limit 0."""
    limit_shape = problem.law.shape_limit(theta, problem.span)
    negative = start + change * limit_shape < 0
    if not negative.any():
        return start, change
    beyond = shape - limit_shape[..., None]
    weighted = problem.weights * beyond
    bound = (weighted * problem.values).sum(-1) / (weighted * beyond).sum(-1)
    change = np.where(negative, bound, change)
    return np.where(negative, -bound * limit_shape, start), change


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
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.where(variance > 1e-14, covariance / variance, 0.0)
    if law.direction:
        change = np.where(change * law.direction < 0, 0.0, change)
    sse = (weighted * centred).sum(-1, keepdims=True) - change * covariance
    if not law.limit_not_negative:
        return sse
    offset = values.sum(-1, keepdims=True) * 0 + (weights * values).sum(-1, keepdims=True) / total
    limit_shape = law.shape_limit(theta, problem.span)
    negative = offset + change * (limit_shape - mean) < 0
    if not negative.any():
        return sse
    against = covariance + offset * total * (mean - limit_shape)
    square = variance + total * (mean - limit_shape) ** 2
    bound = (weights * values**2).sum(-1, keepdims=True) - against**2 / square
    return np.where(negative, bound, sse)


def refine(problem: Problem, theta: Floats, *, free: tuple[int, ...] | None = None) -> Solution:
    """Levenberg-Marquardt from theta (B, k) inside the bounds; coordinates not `free` stay.

    The Jacobian is the projected residual's own, by differences, so that it also knows where a
    constraint binds. Problems that have converged leave the batch.
    """
    law = problem.law
    low = np.array([c.low for c in law.coordinates])
    high = np.array([c.high for c in law.coordinates])
    free = tuple(range(len(low))) if free is None else free
    best = solve(problem, theta)
    if not free:
        return best
    fields = [np.array(f) for f in (best.theta, best.start, best.change, best.residuals, best.sse)]
    damping = np.full(len(theta), 1e-3)
    active = np.arange(len(theta))
    for _ in range(MAX_ITERATIONS):
        part = problem.take(active)
        now = Solution(*(f[active] for f in fields))
        step = _step(part, now, damping[active], free, low, high)
        trial = solve(part, np.clip(now.theta + step, low, high))
        better = trial.sse < now.sse
        done = np.where(better, now.sse - trial.sse <= CONVERGED * now.sse, damping[active] > 1e6)
        done |= ~step.any(-1)
        for field, new in zip(
            fields,
            (trial.theta, trial.start, trial.change, trial.residuals, trial.sse),
            strict=True,
        ):
            field[active[better]] = new[better]
        damping[active] = np.where(better, damping[active] / 8, damping[active] * 8)
        active = active[~done]
        if not len(active):
            break
    return Solution(*fields)


def jacobian(problem: Problem, solution: Solution, free: tuple[int, ...], high: Floats) -> Floats:
    """Derivatives of the projected residuals by the free coordinates: (B, n, len(free))."""
    columns = []
    for index in free:
        # Backwards at the upper bound, so that the shape is never asked for beyond it.
        inside = solution.theta[:, index] + DIFFERENCE_STEP <= high[index]
        moved = solution.theta.copy()
        step = np.where(inside, DIFFERENCE_STEP, -DIFFERENCE_STEP)
        moved[:, index] += step
        columns.append((solve(problem, moved).residuals - solution.residuals) / step[:, None])
    return np.stack(columns, axis=-1)


def _step(
    problem: Problem,
    now: Solution,
    damping: Floats,
    free: tuple[int, ...],
    low: Floats,
    high: Floats,
) -> Floats:
    """The damped Gauss-Newton step; coordinates pressed against a bound do not move."""
    derivatives = jacobian(problem, now, free, high)
    gradient = np.einsum("bnk,bn->bk", derivatives, now.residuals)
    normal = np.einsum("bnk,bnl->bkl", derivatives, derivatives)
    at = now.theta[:, free]
    pressed = ((at <= low[list(free)]) & (gradient > 0)) | (
        (at >= high[list(free)]) & (gradient < 0)
    )
    kept = ~pressed
    normal = normal * (kept[:, :, None] & kept[:, None, :])
    diagonal = np.einsum("bkk->bk", normal)
    diagonal += damping[:, None] * diagonal + pressed + 1e-300
    step = np.zeros_like(now.theta)
    step[:, free] = -np.linalg.solve(normal, (gradient * kept)[..., None])[..., 0]
    return step


def best_fit(problem: Problem) -> Solution:
    """The optimum for each problem of a batch (B, n): grid, then refinement from four basins."""
    law = problem.law
    points = grid(law)
    sse = grid_sse(problem, points)
    starts = _starts(law, points, sse)
    count, batch = starts.shape[1], len(sse)
    repeated = replace(
        problem,
        values=np.repeat(np.atleast_2d(problem.values), count, axis=0),
        weights=problem.weights
        if problem.weights.ndim == 1
        else np.repeat(problem.weights, count, axis=0),
    )
    found = refine(repeated, starts.reshape(batch * count, -1))
    pick = np.arange(batch) * count + found.sse.reshape(batch, count).argmin(1)
    return Solution(
        found.theta[pick],
        found.start[pick],
        found.change[pick],
        found.residuals[pick],
        found.sse[pick],
    )


def _starts(law: Law, points: Floats, sse: Floats) -> Floats:
    """The best grid point in each of four bands of the first coordinate: (B, 4, k)."""
    bands = min(4, len(law.coordinates[0].grid)) if law.coordinates else 1
    parts = np.array_split(np.arange(len(points)), bands)
    best = np.stack([part[sse[:, part].argmin(1)] for part in parts], axis=1)
    return points[best]
