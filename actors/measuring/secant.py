"""Where a rising, perhaps noisy function crosses 0, in few evaluations.

Each evaluation is a forward over validation text, so that what counts is their number. A slope is
believed first, and chords the more the longer they are; once the crossing is between two points,
every two evaluations halve their distance at least, whatever the function does.

Perplexity is rough in CETT: between two CETT values of log-distance d, log(rise) goes up by about
2 d and, with other neurons left out and on T tokens, also moves at random by `2 sqrt(r d)`, where
`r = 1 / (T p)`. (At the optimum of the loss a mean rise of p goes with log ratios of tokens that
scatter by sqrt(2 p); of a tail that is longer by d, a part d is new; so the mean over tokens moves
by sqrt(2 p * 2 d / T), which is 2 sqrt(r d) of p.) At distances below r the walk outruns the rise:
there the function may cross 0 many times, and which crossing is found says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

SLOPES = (0.25, 40.0)
"""Slopes believed: a chord outside measures noise."""

SLOPE_SPREAD = 0.5
"""Standard deviation of slopes around the one that is believed first; also how much a slope
changes over a log-distance of 1."""

LONGEST_STEP = 1.0

FINEST = 1 / 16
"""Share of the roughness at which a search ends whatever f is."""

ROUGHNESS = (1e-3, 0.1)
"""Least and most that `roughness` says: the search must end, and must not end at once."""


def roughness(tokens: float, p_percent: float) -> float:
    """r: the log-distance of CETT values below which the rise of perplexity is noise."""
    return min(max(100 / (tokens * p_percent), ROUGHNESS[0]), ROUGHNESS[1])


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
    rough: float = ROUGHNESS[0],
) -> tuple[float, float]:
    """Where a rising f crosses 0 in [low, high], by a safeguarded secant.

    Args:
        slope: of f, as believed before anything is seen.
        tolerance: |f| that is near enough to end.
        rough: log-distance below which f is noise: there steps go to where chords cross, and end
            when that is at a `FINEST` of it.

    Returns:
        The end of the last bracket whose f is nearer to 0, and the slope of f there. An end of the
        range where f does not cross 0 in it.
    """
    believed = slope
    x = min(max(start, low), high)
    under, over = (-math.inf, -math.inf), (math.inf, math.inf)
    seen: list[tuple[float, float]] = []
    widths: list[float] = []
    while True:
        y = f(x)
        seen.append((x, y))
        slope = _slope(seen, believed, rough)
        under, over = ((x, y), over) if y < 0 else (under, (x, y))
        widths.append(over[0] - under[0])
        if (x == high and y < 0) or (x == low and y >= 0):
            return x, slope
        if abs(y) <= tolerance or widths[-1] < rough * FINEST:
            return min((under, over), key=lambda point: abs(point[1]))[0], slope
        following = x - min(max(y / slope, -LONGEST_STEP), LONGEST_STEP)
        if widths[-1] < rough / 2:
            following = under[0] - under[1] * widths[-1] / (over[1] - under[1])
        slow = len(widths) > 2 and widths[-1] > widths[-3] / 2 and widths[-1] < math.inf
        if slow or not under[0] < following < over[0]:
            following = (under[0] + over[0]) / 2
        x = min(max(following, low), high)


def _slope(seen: list[tuple[float, float]], believed: float, rough: float) -> float:
    """The slope at the newest point: what is believed, and the most telling chord, each by its
    precision; the chord alone where it contradicts what is believed."""
    x, y = seen[-1]
    chords = [
        (4 * rough / abs(x - at) + (SLOPE_SPREAD * (x - at)) ** 2, (y - value) / (x - at))
        for at, value in seen
        if at != x
    ]
    if not chords:
        return believed
    variance, chord = min(chords)
    chord = min(max(chord, SLOPES[0]), SLOPES[1])
    if abs(chord - believed) > 3 * math.sqrt(SLOPE_SPREAD**2 + variance):
        return chord
    return (believed * variance + chord * SLOPE_SPREAD**2) / (variance + SLOPE_SPREAD**2)
