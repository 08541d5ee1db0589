"""L(N, D) = E + A / N^alpha + B / D^beta: loss against parameters and tokens, over many runs.

Hoffmann et al., approach 3: a Huber loss on the log of the loss, in e = log E, a = log A,
b = log B, alpha, beta, where log L is a log-sum-exp of terms that are linear in all five. For
given alpha and beta the surface is linear in E, A and B: a grid over the two gives the basin. The
Huber loss is then made smaller in steps down to its delta, with exact Newton steps, so that no
grid of starting points is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sparsing.analysis.laws.sparsity import Floats
from sparsing.study.errors import DefinitionError

DELTA = 1e-3
"""Where the Huber loss turns from squares to absolute values, in log loss."""
EXPONENTS = np.linspace(0.05, 1.5, 24)
NARROWING = 4.0
"""The delta is divided by this until it is the wanted one."""
STEPS, LAST_STEPS = 8, 200


@dataclass(frozen=True, kw_only=True)
class LossSurface:
    """A fitted L(N, D), in plain parameters and tokens."""

    E: float
    """Loss with infinite parameters and data."""
    A: float
    B: float
    alpha: float
    """Exponent of parameters."""
    beta: float
    """Exponent of tokens."""
    objective: float
    """Sum of the Huber losses of log loss."""
    n: int

    def loss(self, parameters: ArrayLike, tokens: ArrayLike) -> Floats:
        """L(N, D)."""
        n, d = np.asarray(parameters, dtype=float), np.asarray(tokens, dtype=float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def best_split(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of least loss with 6 N D = flops."""
        ratio = self.alpha * self.A / (self.beta * self.B)
        product = flops / 6
        parameters = (ratio * product**self.beta) ** (1 / (self.alpha + self.beta))
        return parameters, product / parameters


def fit_loss_surface(
    parameters: ArrayLike, tokens: ArrayLike, loss: ArrayLike, *, delta: float = DELTA
) -> LossSurface:
    """Fit L(N, D) to runs: parameters, tokens and final loss, one of each a run.

    Raises DefinitionError for fewer than six runs, or values that are not above 0.
    """
    columns = [np.asarray(column, dtype=float) for column in (parameters, tokens, loss)]
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        raise DefinitionError("parameters, tokens and loss need one number each for every run")
    if len(columns[0]) < 6:
        raise DefinitionError(f"five coefficients need six runs or more, got {len(columns[0])}")
    if not all((np.isfinite(column) & (column > 0)).all() for column in columns):
        raise DefinitionError("parameters, tokens and loss must be numbers above 0")
    log_n, log_d, log_loss = (np.log(column) for column in columns)
    # Centred logs keep a and alpha, b and beta apart; the shift is undone at the end.
    shift_n, shift_d = log_n.mean(), log_d.mean()
    terms = loss_terms(log_n - shift_n, log_d - shift_d)
    found = _descend(terms, log_loss, delta)
    e, a, b, alpha, beta = found
    return LossSurface(
        E=float(np.exp(e)),
        A=float(np.exp(a + alpha * shift_n)),
        B=float(np.exp(b + beta * shift_d)),
        alpha=float(alpha),
        beta=float(beta),
        objective=huber(terms, log_loss, found, delta),
        n=len(log_loss),
    )


def loss_terms(log_n: Floats, log_d: Floats) -> Floats:
    """The three exponents as linear maps of (e, a, b, alpha, beta): (n, 3, 5)."""
    terms = np.zeros((len(log_n), 3, 5))
    terms[:, 0, 0] = terms[:, 1, 1] = terms[:, 2, 2] = 1.0
    terms[:, 1, 3], terms[:, 2, 4] = -log_n, -log_d
    return terms


def huber(terms: Floats, log_loss: Floats, theta: Floats, delta: float) -> float:
    """The objective: sum of Huber losses of log-sum-exp(terms theta) - log loss."""
    exponents = terms @ theta
    highest = exponents.max(1)
    misses = np.abs(highest + np.log(np.exp(exponents - highest[:, None]).sum(1)) - log_loss)
    return float(np.where(misses <= delta, misses**2 / 2, delta * (misses - delta / 2)).sum())


def _starts(terms: Floats, log_loss: Floats, count: int = 3) -> list[Floats]:
    """The best allowed points of a grid over alpha and beta, the rest by linear least squares."""
    loss = np.exp(log_loss)
    alpha, beta = (axis.ravel() for axis in np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij"))
    by_n = np.exp(terms[:, 1, 3] * alpha[:, None])
    by_d = np.exp(terms[:, 2, 4] * beta[:, None])
    columns = np.stack([np.ones_like(by_n), by_n, by_d], axis=-1) / loss[:, None]
    normal = columns.swapaxes(1, 2) @ columns
    linear = np.linalg.solve(normal + 1e-12 * np.eye(3), columns.sum(1)[..., None])[..., 0]
    linear = np.maximum(linear, 1e-6 * loss.mean())
    sse = ((np.einsum("gnk,gk->gn", columns, linear) - 1) ** 2).sum(1)
    best = np.argsort(sse)[:count]
    return [np.array([*np.log(linear[i]), alpha[i], beta[i]]) for i in best]


def _descend(terms: Floats, log_loss: Floats, delta: float) -> Floats:
    """Newton's way down from the best start, delta by delta, to the Huber loss asked for."""
    starts = _starts(terms, log_loss)
    spread = max(float(np.abs(_misses(terms, log_loss, start)[0]).max()) for start in starts)
    width = delta
    while width < spread:
        width *= NARROWING
    tried = [_newton(terms, log_loss, start, width, STEPS) for start in starts]
    theta = min(tried, key=lambda each: huber(terms, log_loss, each, width))
    while width > delta:
        width = max(width / NARROWING, delta)
        theta = _newton(terms, log_loss, theta, width, STEPS)
    return _newton(terms, log_loss, theta, delta, LAST_STEPS)


def _misses(terms: Floats, log_loss: Floats, theta: Floats) -> tuple[Floats, Floats]:
    """Misses of log loss (n,), and the shares (n, 3) that the terms have in the loss."""
    exponents = terms @ theta
    highest = exponents.max(1, keepdims=True)
    parts = np.exp(exponents - highest)
    total = parts.sum(1, keepdims=True)
    return (highest + np.log(total))[:, 0] - log_loss, parts / total


def _newton(terms: Floats, log_loss: Floats, theta: Floats, delta: float, steps: int) -> Floats:
    """At most `steps` damped Newton steps on the Huber loss."""
    value, damping = huber(terms, log_loss, theta, delta), 1e-6
    for _ in range(steps):
        misses, shares = _misses(terms, log_loss, theta)
        pull = np.clip(misses, -delta, delta)
        inside = (np.abs(misses) <= delta).astype(float)
        slopes = np.einsum("nk,nkp->np", shares, terms)
        gradient = slopes.T @ pull
        # Of log-sum-exp: the mean of the squared terms less the square of their mean.
        bend = np.einsum("nk,nkp,nkq->pq", shares * pull[:, None], terms, terms)
        hessian = slopes.T @ (slopes * (inside - pull)[:, None]) + bend
        theta, after, damping = _accepted(
            terms, log_loss, delta, theta, value, gradient, hessian, damping
        )
        if value - after <= 1e-14 * value:
            return theta
        value = after
    return theta


def _accepted(
    terms: Floats,
    log_loss: Floats,
    delta: float,
    theta: Floats,
    value: float,
    gradient: Floats,
    hessian: Floats,
    damping: float,
) -> tuple[Floats, float, float]:
    """The first step of rising damping that lowers the objective; else the place itself."""
    scale = np.maximum(np.abs(np.diag(hessian)), 1e-12 * np.trace(np.abs(hessian)))
    while damping < 1e12:
        try:
            np.linalg.cholesky(hessian + damping * np.diag(scale))
        except np.linalg.LinAlgError:
            damping = max(damping * 8, 1e-3)
            continue
        step = np.linalg.solve(hessian + damping * np.diag(scale), gradient)
        trial = huber(terms, log_loss, theta - step, delta)
        if trial < value:
            return theta - step, trial, max(damping / 16, 1e-12)
        damping *= 8
    return theta, value, damping
