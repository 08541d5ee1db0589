"""Model comparison: AICc, BIC and rolling hold-out of every law on the same points."""

from __future__ import annotations

import numpy as np

from sparsing.analysis.fitting.points import Points
from sparsing.analysis.fitting.projection import Problem, least_mse
from sparsing.analysis.fitting.varpro import best_fit
from sparsing.analysis.laws.rivals import RIVALS
from sparsing.analysis.laws.sparsity import PAPER_LAWS, Law

FIRST_PARTS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Rolling hold-out: fit on this first part of the points, predict the next tenth."""
UNDECIDED = 2.0
"""Two laws within this many AICc are not told apart."""

ROUGHLY, MOST_STEPS = 1e-5, 20
"""Fits for the criteria stop at this relative gain; the AICc is then known to 0.01."""

Criteria = dict[str, float | None]


CURVE_LAWS: dict[str, Law] = PAPER_LAWS | RIVALS
"""All laws of activation ratio against tokens."""


def criteria_of(points: Points) -> dict[str, Criteria]:
    """{law: {aicc, bic, holdout_mae}}; None where there are too few points for a criterion."""
    return {name: law_criteria(law, points) for name, law in CURVE_LAWS.items()}


def law_criteria(law: Law, points: Points) -> Criteria:
    """One law's criteria on these points, all from one batch of fits."""
    n, k = len(points.tokens), 2 + len(law.coordinates)
    parts = [part for part in FIRST_PARTS if int(part * n) > k and int(part * n) < n]
    ends = np.array([n, *(int(part * n) for part in parts)])
    fitted = np.arange(n) < ends[:, None]
    values = np.broadcast_to(points.values, fitted.shape)
    problem = Problem(law, points.tokens, values, points.weights * fitted, points.span)
    found = best_fit(problem, starts=1, converged=ROUGHLY, iterations=MOST_STEPS)
    shape = law.shape(points.tokens, found.theta, points.span)
    missed = np.abs(points.values - found.start[:, None] - found.change[:, None] * shape)
    ahead = ~fitted & (np.arange(n) < (ends + max(1, n // 10))[:, None])
    log_mse = _log_mse(float(found.sse[0]), points)
    return {
        "aicc": aicc(law, points, float(found.sse[0])),
        "bic": n * log_mse + (k + 1) * float(np.log(n)) if n > k else None,
        "holdout_mae": float(missed[ahead].mean()) if ahead.any() else None,
    }


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
