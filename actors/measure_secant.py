"""Where a rising, perhaps noisy function crosses 0, in few evaluations.

Each evaluation is a forward over validation text, so that what counts is their number. The chord
through the two nearest points tells the slope; once the crossing is between two points, every two
evaluations halve their distance at least, whatever the function does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

SLOPES = (0.25, 40.0)
"""Slopes believed: a chord outside measures noise."""

SHORTEST_CHORD = 0.05
"""Two points further apart than this tell the slope between them."""

LONGEST_STEP = 1.0

CLOSEST = 1e-3
"""Where the crossing is known to this, the search ends: the function jumps there, or is noise."""


def excess(rise: float, wished: float) -> float:
    """How far a rise is above the wished one: 0 there, its slope in log(rise) 1.

    The logarithm of their ratio, in which power laws are straight; from a third of the wished rise
    downwards a line, for a rise may be 0 or negative: leaving out little can help.
    """
    share = rise / wished
    return math.log(share) if share > 1 / math.e else math.e * share - 2


def solve(
    f: Callable[[float], float],
    start: float,
    slope: float,
    *,
    low: float,
    high: float,
    tolerance: float,
) -> tuple[float, float]:
    """Where a rising f crosses 0 in [low, high], by a safeguarded secant.

    Args:
        slope: of f at the start, roughly.
        tolerance: |f| that is near enough for the last step to be taken along the slope, unseen.

    Returns:
        The crossing and the slope of f there. An end of the range where f does not cross 0 in it.
    """
    x = min(max(start, low), high)
    under, over = -math.inf, math.inf
    seen: list[tuple[float, float]] = []
    widths: list[float] = []
    while True:
        y = f(x)
        slope = _chord(seen, x, y) or slope
        seen.append((x, y))
        under, over = (x, over) if y < 0 else (under, x)
        widths.append(over - under)
        if (x == high and y < 0) or (x == low and y >= 0):
            return x, slope
        following = x - min(max(y / slope, -LONGEST_STEP), LONGEST_STEP)
        if abs(y) <= tolerance or widths[-1] < CLOSEST:
            return min(max(following, under, low), over, high), slope
        slow = len(widths) > 2 and widths[-1] > widths[-3] / 2 and widths[-1] < math.inf
        if slow or not under < following < over:
            following = (under + over) / 2
        x = min(max(following, low), high)


def _chord(seen: list[tuple[float, float]], x: float, y: float) -> float | None:
    """Slope to the nearest point that is not too near; None: there is no such point."""
    far = [point for point in seen if abs(point[0] - x) >= SHORTEST_CHORD]
    if not far:
        return None
    nearest = min(far, key=lambda point: abs(point[0] - x))
    return min(max((y - nearest[1]) / (x - nearest[0]), SLOPES[0]), SLOPES[1])
