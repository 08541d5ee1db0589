"""Robust losses by iterated reweighting: Huber and soft L1.

Residuals are measured in units of 1.4826 times their median absolute deviation; beyond `DELTA`
units a point counts as an outlier and pulls with bounded force. The weights found so stay in the
problem, so that intervals and predictions rest on them too.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsing.analysis.fitting.names import Loss
from sparsing.analysis.fitting.projection import Problem, Solution
from sparsing.analysis.fitting.varpro import best_fit, refine
from sparsing.analysis.laws.sparsity import Floats

DELTA = 1.345
"""Huber's constant: 95 % efficiency on normal noise."""
ROUNDS = 30


def robust_weights(problem: Problem, solution: Solution, loss: Loss) -> tuple[Problem, Solution]:
    """The problem reweighted by a robust loss until it stands still, and its solution."""
    given = problem.weights
    for _ in range(ROUNDS):
        before = problem.weights
        problem = replace(problem, weights=given * _pull(problem, solution, loss))
        solution = refine(replace(problem, values=problem.values[None]), solution.theta)
        if np.abs(problem.weights - before).max() < 1e-6 * before.max():
            break
    return problem, best_fit(problem)


def _pull(problem: Problem, solution: Solution, loss: Loss) -> Floats:
    """Each point's share of its weight: 1 near the law, falling with its distance."""
    shape = problem.law.shape(problem.tokens, solution.theta[0], problem.span)
    distance = np.abs(problem.values - solution.start[0] - solution.change[0] * shape)
    scale = max(1.4826 * float(np.median(distance)), 1e-12)
    units = distance / (scale * DELTA)
    if loss == "huber":
        return 1 / np.maximum(units, 1.0)
    return 1 / np.sqrt(1 + units**2)
