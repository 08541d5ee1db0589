"""Predictions from a confidence region: bands, and the tokens at which a ratio is reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from sparsing.analysis.fitting.region import Region
from sparsing.analysis.laws.sparsity import Floats

HORIZON = 1e6
"""Tokens to a ratio are sought up to this many times the last point; beyond it is `never`."""


class Prediction(NamedTuple):
    """A value with its interval; all None where the points are too few for one."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TokensTo:
    """Tokens at which a curve reaches a ratio, in plain tokens."""

    ratio: float
    verdict: Literal["reached", "never", "cannot say"]
    """`reached`: every law in the confidence region reaches it. `never`: none does.
    `cannot say`: some do."""
    tokens: float | None
    """By the best fit; None where that never reaches it."""
    low: float | None
    high: float | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def band(region: Region, tokens: Floats, *, measurement: bool) -> tuple[Floats, Floats]:
    """Lowest and highest A at tokens (q,) in billions over the region; inf where unbounded.

    With `measurement`, where a new measurement of average weight would fall; else the law itself.
    """
    law, centre = region.problem.law, region.centre
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # far before the first point a law may be beyond any number
        at = law.shape(tokens, region.theta, region.problem.span)
        value = centre.start[:, None] + centre.change[:, None] * at
        low, high = _bounds(region, at, value, measurement)
    return (np.maximum(low, 0.0), high) if law.limit_not_negative else (low, high)


def _bounds(region: Region, at: Floats, value: Floats, measurement: bool) -> tuple[Floats, Floats]:
    """Extremes over the region from each point's shape and value at the tokens: (m, q)."""
    away = (at - region.mean_shape[:, None]) ** 2 / region.spread[:, None]
    variance = 1 / region.problem.weights.sum() + away
    reach = region.slack[:, None] * np.sqrt(variance + measurement)
    low, high = value - reach, value + reach
    low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
    return low.min(0), high.max(0)


def tokens_to(region: Region, ratio: float, best: float) -> TokensTo:
    """When the law, not a noisy measurement of it, reaches `ratio`; `best` by the optimum or nan.

    The interval holds every token count at which some law of the region equals the ratio.
    """
    first, last = region.problem.span.first, region.problem.span.last
    grid = np.geomspace(first * 1e-3, last * HORIZON, 700)
    plain = grid * region.problem.law.unit
    low_band, high_band = band(region, grid, measurement=False)
    if float(region.best.change[0]) < 0:
        some, every = ratio - low_band, ratio - high_band
    else:
        some, every = high_band - ratio, low_band - ratio
    low, high = _first(some, plain), _first(every, plain)
    number = float(best * region.problem.law.unit) if np.isfinite(best) else None
    if low is None:
        reason = f"no law within the interval reaches it in {HORIZON:g} times the tokens measured"
        return TokensTo(ratio, "never", None, None, None, reason)
    if high is None or number is None:
        reason = "some laws within the interval reach it, others never do"
        return TokensTo(ratio, "cannot say", number, low, high, reason)
    reason = "every law within the interval reaches it"
    return TokensTo(ratio, "reached", number, low, high, reason)


def _first(above: Floats, tokens: Floats) -> float | None:
    """The token count where `above` first rises to 0, between two of the grid's; None = nowhere."""
    index = np.flatnonzero(above >= 0)
    if not len(index):
        return None
    last = int(index[0])
    if last == 0 or not np.isfinite(above[last - 1]):
        return float(tokens[last])
    share = above[last - 1] / (above[last - 1] - above[last])
    return float(tokens[last - 1] * (tokens[last] / tokens[last - 1]) ** share)
