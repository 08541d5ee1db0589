"""Which law, and how many early points to leave out, where nobody has said so.

Both are chosen by one criterion, BIC(m) = n log(SSE / n) + (k + m) log n: each dropped point costs
a parameter, as if it had a free mean of its own. Points are dropped only for a gain over 6,
"strong evidence" in the usual reading, and no more of them for less than that: the first minimum
counts that none beats by over 6. On the paper's 1.2B ReLU curve this gives the paper's 6.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sparsing.analysis.fitting.points import Points
from sparsing.analysis.fitting.projection import Problem, least_mse
from sparsing.analysis.fitting.varpro import best_fit
from sparsing.analysis.laws.sparsity import Floats, Integers, Law

GAIN = 6.0
MOST_DROPPED = 1 / 3
"""At most this share of the points is dropped."""
ROUGHLY = 1e-4
"""Fits for this choice stop at this relative gain: the BIC is then known to 0.01."""
MOST_COUNTS = 100
"""At most as many counts of dropped points are compared."""
SPARE_POINTS = 8
"""Points that stay beyond the law's parameters."""


class Choice(NamedTuple):
    """A law, the early points to drop, and coordinates (1, k) near the optimum of the rest."""

    law: Law
    dropped: int
    theta: Floats


def choose(points: Points, laws: list[Law], drop: int | None) -> Choice:
    """The law that fits best, and the number of early points to drop (`drop` if it is given)."""
    best: tuple[float, Choice] | None = None
    for law in laws:
        most = most_dropped(len(points.tokens), law)
        counts = _looked_at(most) if drop is None else np.array([drop])
        bic, theta = bic_by_dropped(points, law, counts)
        chosen = fewest(bic)
        if best is None or bic[chosen] < best[0]:
            choice = Choice(law, int(counts[chosen]), theta[chosen : chosen + 1])
            best = float(bic[chosen]), choice
    assert best is not None
    return best[1]


def _looked_at(most: int) -> Integers:
    """0 to `most`, or at most MOST_COUNTS of these counts, evenly."""
    return np.unique(np.linspace(0, most, min(most + 1, MOST_COUNTS)).round().astype(int))


def fewest(bic: Floats) -> int:
    """0 unless some count gains over 6; then the first local minimum that none beats by over 6."""
    good = bic <= bic.min() + GAIN
    if good[0]:
        return 0
    next_is_worse = np.append(bic[1:] >= bic[:-1], True)
    return int(np.flatnonzero(good & next_is_worse)[0])


def most_dropped(points: int, law: Law) -> int:
    """How many early points may be dropped from a curve."""
    spare = points - (2 + len(law.coordinates)) - SPARE_POINTS
    return max(0, min(int(points * MOST_DROPPED), spare))


def bic_by_dropped(points: Points, law: Law, counts: Integers) -> tuple[Floats, Floats]:
    """BIC and the best coordinates for each count of dropped points: (counts,), (counts, k)."""
    n = len(points.tokens)
    kept = np.arange(n) >= counts[:, None]
    values = np.broadcast_to(points.values, kept.shape)
    problem = Problem(law, points.tokens, values, points.weights * kept, points.span)
    found = best_fit(problem, starts=1, converged=ROUGHLY)
    parameters = 2 + len(law.coordinates) + counts
    bic = n * np.log(np.maximum(found.sse / n, least_mse(points.values))) + parameters * np.log(n)
    return bic, found.theta
