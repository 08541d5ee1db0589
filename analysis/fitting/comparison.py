"""Model comparison: AICc, BIC and rolling hold-out of every law on the same points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsing.analysis.fitting.points import Points
from sparsing.analysis.fitting.projection import Problem, Solution, least_mse
from sparsing.analysis.fitting.varpro import best_fit
from sparsing.analysis.laws.rivals import RIVALS
from sparsing.analysis.laws.sparsity import PAPER_LAWS, Floats, Law

FIRST_PARTS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Rolling hold-out: fit on this first part of the points, predict the next tenth."""
UNDECIDED = 2.0
"""Two laws within this many AICc are not told apart."""

ROUGHLY, MOST_STEPS = 1e-5, 20
"""Fits for the criteria stop at this relative gain; the AICc is then known to 0.01."""

Criteria = dict[str, float | None]


CURVE_LAWS: dict[str, Law] = PAPER_LAWS | RIVALS
"""All laws of activation ratio against tokens."""


@dataclass(frozen=True)
class Compared:
    """A law fitted to a curve, and to first parts of it."""

    law: Law
    found: Solution
    """Of the whole curve, then of each part; weighted residuals are those of the points fitted."""
    ends: tuple[int, ...]
    """Points in each part."""
    missed: Floats
    """What the fit of each part leaves of all points: (parts, n)."""
    criteria: Criteria

    @property
    def whole(self) -> Solution:
        """The fit of the whole curve (a batch of 1), near its optimum."""
        return self.found.rows(np.array([0]))


def compare_laws(points: Points) -> dict[str, Compared]:
    """Every law on these points; criteria are None where there are too few points for them."""
    return {name: compare_law(law, points) for name, law in CURVE_LAWS.items()}


def compare_law(law: Law, points: Points) -> Compared:
    """One law on these points and on their first parts, all from one batch of fits."""
    n, k = len(points.tokens), 2 + len(law.coordinates)
    ends = sorted({int(part * n) for part in FIRST_PARTS if k < int(part * n) < n})
    fitted = np.arange(n) < np.array([n, *ends])[:, None]
    values = np.broadcast_to(points.values, fitted.shape)
    problem = Problem(law, points.tokens, values, points.weights * fitted, points.span)
    found = best_fit(problem, starts=1, converged=ROUGHLY, iterations=MOST_STEPS)
    shape = law.shape(points.tokens, found.theta[1:], points.span)
    missed = points.values - found.start[1:, None] - found.change[1:, None] * shape
    ahead = ~fitted[1:] & (np.arange(n) < (np.array(ends) + max(1, n // 10))[:, None])
    log_mse = _log_mse(float(found.sse[0]), points)
    criteria: Criteria = {
        "aicc": aicc(law, points, float(found.sse[0])),
        "bic": n * log_mse + (k + 1) * float(np.log(n)) if n > k else None,
        "holdout_mae": float(np.abs(missed[ahead]).mean()) if ends else None,
    }
    return Compared(law, found, tuple(ends), missed, criteria)


def aicc(law: Law, points: Points, sse: float) -> float | None:
    """The AICc of a law with this sum of squares on these points; None where they are too few."""
    n, k = len(points.tokens), 2 + len(law.coordinates)
    spare = n - k - 2
    return n * _log_mse(sse, points) + 2 * (k + 1) * (n / spare) if spare > 0 else None


def _log_mse(sse: float, points: Points) -> float:
    return float(np.log(max(sse / len(points.tokens), least_mse(points.values))))


def undecided(criteria: dict[str, Criteria]) -> list[str]:
    """The laws that the AICc does not tell apart from the best one, best first."""
    known = {law: values["aicc"] for law, values in criteria.items() if values["aicc"] is not None}
    best = min(known.values(), default=0.0)
    return sorted((law for law in known if known[law] - best <= UNDECIDED), key=known.__getitem__)
