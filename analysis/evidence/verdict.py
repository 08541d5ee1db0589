"""The verdict on a run's own law: holds, undecided, refused, or too few points to say.

Three tests: what is left in the residuals after the law, how far the best other law leads, and
whether the law's forecasts of points that were there already failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import fdtrc, stdtr

from sparsing.analysis.evidence.law_set import LawSet, Member
from sparsing.analysis.evidence.noise import design
from sparsing.analysis.evidence.slope_error import Forecast, SlopeError
from sparsing.analysis.fitting.comparison import UNDECIDED
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_table import verdict_text

Word = Literal["holds", "undecided", "refused", "cannot say"]

LEAD = 10.0
"""A law this far behind the best one in AICc is refused."""
SIGNIFICANT = 1e-3
"""Chance below which a test refuses a law."""
WAVES = 3
"""Polynomials in log tokens that are looked for in the residuals."""


@dataclass(frozen=True)
class Verdict:
    """A word on a law, and the reason behind it."""

    word: Word
    reason: str

    def __str__(self) -> str:
        return verdict_text(self.word, self.reason)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"verdict": self.word, "verdict_reason": self.reason}


def judge(fit: Fit, laws: LawSet, own: Member, errors: SlopeError) -> Verdict:
    """The verdict on the fit's own law among the laws of the set."""
    count = len(fit.points.tokens)
    if count - own.parameters < 2:
        return Verdict("cannot say", f"{count} points are too few to test the {fit.law} law")
    if not fit.trend:
        return Verdict("cannot say", "the points show no trend")
    best = laws.members[0]
    if own.distance > LEAD:
        return _refused(f"the {best.law.name} law fits better by {own.distance:.3g} AICc")
    chance = _waves_chance(fit, laws, own)
    if chance < SIGNIFICANT:
        return _refused(f"its residuals go in waves (p = {chance:.1g})")
    failed = _failed(errors.forecasts)
    if failed is not None:
        return _refused(failed)
    others = [each for each in laws.members if each is not own and _says_otherwise(fit, own, each)]
    if others:
        names = ", ".join(each.law.name for each in others)
        return Verdict("undecided", f"between {fit.law} and {names}, which say otherwise")
    return Verdict("holds", f"no law fits the {count} points better, and its forecasts held")


def _refused(reason: str) -> Verdict:
    return Verdict("refused", reason)


def _says_otherwise(fit: Fit, own: Member, other: Member) -> bool:
    """Whether a law that fits as well has its limit outside the own law's interval."""
    if other.distance > UNDECIDED and other.distance > own.distance:
        return False
    law, found = other.law, other.solution
    with np.errstate(all="ignore"):
        shape = law.shape_limit(found.theta, other.problem.span)
        limit = float((found.start + found.change * shape)[0])
    low, high = fit.intervals[fit.limit_parameter] if fit.limit_parameter else (None, None)
    below = low is not None and not limit >= low
    above = high is not None and not limit <= high
    return below or above or not np.isfinite(limit)


def _waves_chance(fit: Fit, laws: LawSet, own: Member) -> float:
    """Chance of residuals this wavy about a true law: an F test of polynomials in log tokens."""
    points, count = fit.points, len(fit.points.tokens)
    spare = count - own.parameters - WAVES
    if spare < 4:
        return 1.0
    root = np.sqrt(laws.weights)[:, None]
    log_tokens = np.log(points.tokens)
    middle = (log_tokens[0] + log_tokens[-1]) / 2
    scaled = (log_tokens - middle) / (log_tokens[-1] - middle)
    waves = np.polynomial.legendre.legvander(scaled, WAVES + 2)[:, 3:]
    columns = np.column_stack([design(own.law, own.solution, points), waves]) * root
    own_base, _ = np.linalg.qr(columns[:, : own.parameters])
    base, _ = np.linalg.qr(columns)
    residuals = (points.values - own.value(points.tokens)) * root[:, 0]
    residuals = residuals - own_base @ (own_base.T @ residuals)
    whole = float(residuals @ residuals)
    waved = float(((base.T @ residuals) ** 2).sum())
    left = max(whole - waved, 1e-300)
    ratio = waved / WAVES / (left / spare) / laws.noise.inflation
    return float(fdtrc(WAVES, spare, ratio))


def _failed(forecasts: tuple[Forecast, ...]) -> str | None:
    """Which forecast failed, in words, counting that several were made; None where none did."""
    for each in forecasts:
        chance = 2 * stdtr(each.freedom, -abs(each.error) / each.uncertainty)
        if chance * len(forecasts) < SIGNIFICANT:
            return (
                f"fitted to its first {each.fitted} points, it missed the next ones by "
                f"{abs(each.error) / each.uncertainty:.2g} standard errors"
            )
    return None
