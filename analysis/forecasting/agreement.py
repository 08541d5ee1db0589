"""Whether laws that fit as well as a run's own say the same about a wished quantity."""

from __future__ import annotations

from sparsing.analysis.fitting.comparison import CURVE_LAWS, UNDECIDED, aicc
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.projection import Problem, Solution
from sparsing.analysis.fitting.varpro import best_fit
from sparsing.analysis.forecasting.target import Wish

ROUGHLY = 1e-5
"""Rivals are fitted to this relative gain: values are then known far better than wished."""


def precise_enough(wish: Wish, fit: Fit, rivals: list[str]) -> bool:
    """Whether the quantity is known as wished, and no rival that fits as well says otherwise."""
    return wish.miss(wish.of(fit)) <= 1 and disagreement(wish, fit, rivals) is None


def disagreement(wish: Wish, fit: Fit, rivals: list[str]) -> str | None:
    """What a rival that fits as well, or better, says else, in words; None where there is none.

    `rivals`: names of `CURVE_LAWS`. They are fitted to the points of `fit`.
    """
    estimate = wish.of(fit)
    for name in rivals:
        law, points = CURVE_LAWS[name], fit.points
        problem = Problem(law, points.tokens, points.values[None], points.weights, points.span)
        found = best_fit(problem, starts=1, converged=ROUGHLY)
        value = wish.value(law, found, points.span)
        if not wish.agree(estimate, value) and not _told_worse(problem, found, fit):
            nothing = "has none" if wish.quantity == "limit" else "says never"
            says = nothing if value is None else f"gives {wish.text(value)}"
            return f"the {name} law, which fits as well, {says}"
    return None


def _told_worse(problem: Problem, rival: Solution, fit: Fit) -> bool:
    """Whether the AICc tells the rival to be worse than the fit's own law, on the same points."""
    scores = [
        aicc(law, fit.points, float(found.sse[0]))
        for law, found in ((problem.law, rival), (fit.form, fit.solution))
    ]
    theirs, own = scores
    return theirs is not None and own is not None and theirs - own > UNDECIDED
