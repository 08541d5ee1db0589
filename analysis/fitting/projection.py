"""Variable projection: the best `start` and `change` for given coordinates, in closed form.

Everything works on a batch of problems at once (starting points, bootstrap samples, rows of a
confidence region); a batch of one is a curve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparsing.analysis.laws.sparsity import Bools, Floats, Integers, Law, Span


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

    @cached_property
    def root_total(self) -> Floats:
        """Square root of the sum of the weights: (...)."""
        return np.sqrt(np.add.reduce(self.weights, -1))

    @cached_property
    def constant(self) -> Floats:
        """The constant, weighted, as a unit vector: (..., n)."""
        return self.root_weights / self.root_total[..., None]

    @cached_property
    def mean(self) -> Floats:
        """Share of the constant in the weighted values: (...)."""
        return dot(self.values * self.root_weights, self.constant)

    @cached_property
    def varying(self) -> Floats:
        """The weighted values without their mean: (..., n)."""
        return self.values * self.root_weights - self.mean[..., None] * self.constant

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


@dataclass(frozen=True)
class LinearPart:
    """The linear part of a solution: what the shape spans beside the constant.

    Where `bound` (...), the limit is held at 0: `basis` is then the shape's distance to its
    limit, and the constant has no part. `basis` (..., n) is weighted, `square` its square.
    """

    solution: Solution
    basis: Floats
    square: Floats
    bound: Bools


def solve(problem: Problem, theta: Floats) -> Solution:
    """The best allowed start and change at coordinates theta (..., k)."""
    shape = problem.law.shape(problem.tokens, theta, problem.span)
    return solve_shape(problem, theta, shape).solution


def solve_shape(problem: Problem, theta: Floats, shape: Floats) -> LinearPart:
    """The linear part for a shape (..., n)."""
    direction = problem.law.direction
    basis = shape * problem.root_weights
    mean = dot(basis, problem.constant)
    basis -= mean[..., None] * problem.constant
    square = np.maximum(dot(basis, basis), 1e-300)
    change = dot(basis, problem.varying) / square
    if direction:
        change = np.maximum(change * direction, 0.0) * direction
    start = (problem.mean - change * mean) / problem.root_total
    residuals = problem.varying - change[..., None] * basis
    found = Solution(theta, start, change, residuals, dot(residuals, residuals))
    bound: Bools = np.zeros(change.shape, dtype=bool)
    if problem.law.limit_not_negative:
        limit_shape = problem.law.shape_limit(theta, problem.span)
        bound = start + change * limit_shape < 0
        if bound.any():
            return _with_limit_0(
                problem, shape, limit_shape, LinearPart(found, basis, square, bound)
            )
    return LinearPart(found, basis, square, bound)


def _with_limit_0(
    problem: Problem, shape: Floats, limit_shape: Floats, linear: LinearPart
) -> LinearPart:
    """Where the limit would be negative: the best solution with limit 0."""
    free, bound = linear.solution, linear.bound
    beyond = (shape - limit_shape[..., None]) * problem.root_weights
    square = np.maximum(dot(beyond, beyond), 1e-300)
    values = problem.values * problem.root_weights
    change = np.where(bound, dot(beyond, values) / square, free.change)
    start = np.where(bound, -change * limit_shape, free.start)
    at_0 = values - change[..., None] * beyond
    residuals = np.where(bound[..., None], at_0, free.residuals)
    solution = Solution(free.theta, start, change, residuals, dot(residuals, residuals))
    basis = np.where(bound[..., None], beyond, linear.basis)
    return LinearPart(solution, basis, np.where(bound, square, linear.square), bound)


def dot(left: Floats, right: Floats) -> Floats:
    """Sum of products over the points: (..., n), (..., n) -> (...)."""
    return np.vecdot(left, right)


def bounds(law: Law) -> tuple[Floats, Floats]:
    """Lower and upper bounds of a law's coordinates, (k,) each."""
    return (
        np.array([coordinate.low for coordinate in law.coordinates]),
        np.array([coordinate.high for coordinate in law.coordinates]),
    )


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
