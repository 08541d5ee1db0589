"""Bootstrap refits, all at once: a second opinion on the profile-likelihood intervals.

Residuals are resampled one by one, or in blocks where neighbours go together, put on the fitted
curve, and every such curve is fitted from the optimum. A thousand refits are one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsing.analysis.fitting.fit import Bounds, Fit
from sparsing.analysis.fitting.projection import Problem
from sparsing.analysis.fitting.varpro import refine
from sparsing.analysis.laws.sparsity import Floats

PRECISELY = 1e-8


@dataclass(frozen=True)
class Bootstrap:
    """Refitted parameters: name -> (refits,)."""

    parameters: dict[str, Floats]

    def interval(self, name: str, level: float = 0.95) -> Bounds:
        """The percentile interval of a parameter; None = beyond any number on that side."""
        tail = (1 - level) / 2
        ends = np.quantile(self.parameters[name], [tail, 1 - tail], method="inverted_cdf")
        low, high = (float(end) if np.isfinite(end) else None for end in ends)
        return low, high


def bootstrap(fit: Fit, refits: int = 1000, *, block: int = 1, seed: int = 0) -> Bootstrap:
    """Refit a law to `refits` curves made of its own values and resampled residuals.

    `block`: so many neighbouring residuals stay together. Residuals are scaled by
    sqrt(n / (n - k)), for a fit's own are too small.
    """
    curves = resampled(fit, refits, block=block, seed=seed)
    problem, law = fit.problem, fit.form
    batch = Problem(law, problem.tokens, curves, problem.weights, problem.span)
    start = np.repeat(fit.solution.theta, refits, axis=0)
    found = refine(batch, start, converged=PRECISELY)
    return Bootstrap(law.parameters(found.theta, found.start, found.change, problem.span))


def resampled(fit: Fit, refits: int, *, block: int, seed: int) -> Floats:
    """The resampled curves: (refits, n)."""
    problem, solution = fit.problem, fit.solution
    n, k = fit.n, 2 + len(fit.form.coordinates)
    shape = fit.form.shape(problem.tokens, solution.theta[0], problem.span)
    fitted = solution.start[0] + solution.change[0] * shape
    residuals = (problem.values - fitted) * np.sqrt(problem.weights)
    residuals = (residuals - residuals.mean()) * np.sqrt(n / max(n - k, 1))
    random = np.random.default_rng(seed)
    firsts = random.integers(0, n, size=(refits, -(-n // block)))
    picked = (firsts[:, :, None] + np.arange(block)) % n
    drawn = residuals[picked.reshape(refits, -1)[:, :n]]
    return fitted + drawn / np.sqrt(problem.weights)
