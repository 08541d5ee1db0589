"""Which law, and how many early points to leave out, where nobody has said so.

Both are chosen by one criterion, BIC(m) = n log(SSE / n) + (k + m) log n: each dropped point costs
a parameter, as if it had a free mean of its own. Points are dropped only for a gain over 6,
"strong evidence" in the usual reading. On the paper's 1.2B ReLU curve this gives the paper's 6.
"""

from __future__ import annotations

import numpy as np

from analysis.laws import Floats, Integers, Law, Span
from analysis.points import Points
from analysis.varpro import Problem, best_fit

GAIN = 6.0
MOST_DROPPED = 1 / 3
"""At most this share of the points is dropped."""
SPARE_POINTS = 3
"""Points that stay beyond the law's parameters."""


def choose_dropped(points: Points, laws: list[Law], drop: int | None) -> tuple[Law, int]:
    """The law that fits best, and the number of early points to drop (`drop` if it is given)."""
    if drop is not None and len(laws) == 1:
        return laws[0], drop
    best: tuple[float, Law, int] | None = None
    for law in laws:
        counts = np.arange(most_dropped(len(points.tokens), law) + 1)
        if drop is not None:
            counts = np.array([drop])
        bic = bic_by_dropped(points, law, counts)
        chosen = int(bic.argmin())
        if drop is None and bic[0] - bic[chosen] <= GAIN:
            chosen = 0
        if best is None or bic[chosen] < best[0]:
            best = float(bic[chosen]), law, int(counts[chosen])
    assert best is not None
    return best[1:]


def most_dropped(points: int, law: Law) -> int:
    """How many early points may be dropped from a curve."""
    spare = points - (2 + len(law.coordinates)) - SPARE_POINTS
    return max(0, min(int(points * MOST_DROPPED), spare))


def bic_by_dropped(points: Points, law: Law, counts: Integers) -> Floats:
    """BIC for each count of dropped points: (counts,)."""
    n = len(points.tokens)
    kept = np.arange(n) >= counts[:, None]
    span = Span(float(points.tokens[0]), float(points.tokens[-1]))
    values = np.broadcast_to(points.values, kept.shape)
    sse = best_fit(Problem(law, points.tokens, values, points.weights * kept, span)).sse
    floor = n * (1e-9 * np.abs(points.values).max()) ** 2
    return n * np.log(np.maximum(sse, floor) / n) + (2 + len(law.coordinates) + counts) * np.log(n)
