"""What a fit would say after more points: further ones drawn from laws that it leaves possible.

A future is one law among those that the residuals leave possible (a bootstrap refit), and the
noise about it. The points that are there stay as they are. What several futures agree on is what
to expect, and where they differ is how far the expectation can be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsing.analysis.fitting.bootstrap import resampled
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.projection import Problem
from sparsing.analysis.fitting.varpro import refine
from sparsing.analysis.laws.sparsity import Floats

MOST_NEW_POINTS = 40
"""More further points than these are drawn as means of neighbours, with their weight."""
PRECISELY = 1e-6


@dataclass(frozen=True)
class Future:
    """One way in which a fitted curve may go on."""

    fit: Fit
    noise: float
    """Standard deviation of a point of weight 1 about its law."""
    theta: Floats
    """Coordinates (k,) of its law, which is A = start + change * shape."""
    start: float
    change: float
    seed: tuple[int, int]

    def after(self, further: Floats) -> Fit:
        """The same law fitted again with points at `further` (m,), in plain tokens, drawn here."""
        law, points = self.fit.form, self.fit.points
        groups = np.array_split(np.sort(further), min(len(further), MOST_NEW_POINTS))
        at = np.array([group.mean() for group in groups]) / law.unit
        weights = np.array([len(group) for group in groups], dtype=float)
        expected = self.start + self.change * law.shape(at, self.theta, self.fit.problem.span)
        errors = np.random.default_rng(self.seed).standard_normal(len(at)) * self.noise
        values = np.clip(expected + errors / np.sqrt(weights), 0.0, law.highest)
        return fit_curve(
            np.concatenate([points.tokens, at]) * law.unit,
            np.concatenate([points.values, values]),
            law=law,
            weights=np.concatenate([points.weights, weights]),
            drop=0,
        )


def futures(fit: Fit, count: int, *, seed: int = 0) -> list[Future]:
    """A number of futures of a fit, the same for the same seed; none without degrees of freedom."""
    freedom = fit.n - 2 - len(fit.form.coordinates)
    if freedom < 1:
        return []
    # The noise is known by the residuals only: that of each future is one that they leave possible.
    drawn = np.random.default_rng([seed, count]).chisquare(freedom, count)
    noises = np.sqrt(fit.solution.sse[0] / drawn)
    problem = fit.problem
    curves = resampled(fit, count, block=1, seed=seed)
    batch = Problem(problem.law, problem.tokens, curves, problem.weights, problem.span)
    found = refine(batch, np.repeat(fit.solution.theta, count, axis=0), converged=PRECISELY)
    laws = zip(noises, found.theta, found.start, found.change, strict=True)
    return [
        Future(fit, float(noise), theta, float(start), float(change), (seed, i))
        for i, (noise, theta, start, change) in enumerate(laws)
    ]
