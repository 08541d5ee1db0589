"""The answers of a curve: limit, predictions and tokens to a ratio, from all laws in its set.

`weigh(fit)` fits every law to the points of a fit, estimates their noise and how far the law's
forecasts went wrong, and mixes the laws that the points cannot refuse. The paper's parameters stay
those of the fit; what is said about the curve comes from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from sparsing.analysis.evidence.law_set import LawSet, Member, fit_laws
from sparsing.analysis.evidence.mixture import Mixture, mixture
from sparsing.analysis.evidence.slope_error import SlopeError, slope_error
from sparsing.analysis.evidence.verdict import Verdict, judge
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.points import BILLION
from sparsing.analysis.fitting.prediction import TokensTo
from sparsing.analysis.laws.sparsity import Floats
from sparsing.study.errors import DefinitionError

FARTHEST = 10.0
"""Predictions go this far beyond the last tokens; `sparsing bench honesty` looks no further."""
FARTHEST_REFUSED = 2.0
"""The same for a curve whose law is refused."""
MOST_NOISE_GROWTH = 1.5
"""A noise that grows or shrinks with tokens is taken on over so many factors e of them."""
GRID = 240
"""Token counts at which a wished ratio is looked for."""


class Answer(NamedTuple):
    """A ratio with its interval; a side that is None is open, a value of None is not identified."""

    value: float | None
    low: float | None
    high: float | None

    @property
    def identified(self) -> bool:
        """Whether both sides are closed."""
        return None not in (self.value, self.low, self.high)


@dataclass(frozen=True)
class Evidence:
    """What a curve says. Tokens are plain at this interface; ratios are shares of neurons."""

    fit: Fit
    """Of the run's own law."""
    laws: LawSet
    slope_error: SlopeError
    shared_error: float = 0.0
    """Relative standard error that all points have in common: measured on one text at one CETT."""
    _mixture: Mixture | None = field(default=None, repr=False)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the run's own law holds."""
        return judge(self.fit, self.laws, self.own, self.slope_error)

    @property
    def own(self) -> Member:
        """The run's own law in the set."""
        return self.laws.of(self.fit.law)

    @property
    def answers(self) -> bool:
        """Whether there are intervals: the points leave some law a degree of freedom."""
        return self._mixture is not None

    @property
    def last_tokens(self) -> float:
        """The last point's tokens."""
        return float(self.fit.points.tokens[-1] * BILLION)

    @property
    def farthest_tokens(self) -> float:
        """Beyond these tokens nothing is said about the ratio."""
        refused = self.verdict.word == "refused"
        return self.last_tokens * (FARTHEST_REFUSED if refused else FARTHEST)

    def extrapolation(self, tokens: float) -> float:
        """Tokens in multiples of the last point's; 1 within the points."""
        return max(1.0, tokens / self.last_tokens)

    def limit(self, level: float | None = None) -> Answer:
        """The ratio at infinite data, of the curve as it goes now; with the shared error."""
        if not self.fit.trend or self._mixture is None:
            return Answer(None, None, None)
        level = level or self.fit.level
        value, low, high = self._quantiles(np.array([np.inf]), level)[:, 0]
        open_low, open_high = low <= 1e-9, high >= self.own.law.highest - 1e-9
        wider = float(self.slope_error.half_width(np.array([np.inf]), level, bends=False)[0])
        wider = float(np.hypot(wider, self._shared(value, level)))
        low, high = value - np.hypot(value - low, wider), value + np.hypot(high - value, wider)
        low_end = None if open_low or low <= 0 else float(low)
        high_end = None if open_high or high >= self.own.law.highest else float(high)
        return Answer(float(value), low_end, high_end)

    def predict(
        self, tokens: float, *, measurement: bool = True, level: float | None = None
    ) -> Answer:
        """The ratio at `tokens`: of a measurement on the same text, or of the curve itself.

        All None where the points are too few, or `tokens` too far beyond them to say.
        """
        if self._mixture is None or tokens > self.farthest_tokens * (1 + 1e-9):
            return Answer(None, None, None)
        columns = self.predict_many([tokens], measurement=measurement, level=level)
        return Answer(*(float(column[0]) for column in columns))

    def predict_many(
        self,
        tokens: ArrayLike,
        *,
        measurement: bool = True,
        bends: bool = True,
        level: float | None = None,
    ) -> tuple[Floats, Floats, Floats]:
        """Values, lows and highs at `tokens` (q,), however far; the whole range where open.

        `measurement`: with the noise of a new point on the same text; else with the error that all
        points share. `bends`: for a curve that may bend beyond its points.
        """
        at = np.asarray(tokens, dtype=float) / BILLION
        if not (np.isfinite(at) & (at > 0)).all():
            raise DefinitionError("predictions need token counts above 0")
        level = level or self.fit.level
        highest = self.own.law.highest
        if self._mixture is None:
            value = np.clip(self.own.value(at), 0.0, highest)
            return value, np.zeros(len(at)), np.full(len(at), highest)
        value, low, high = self._quantiles(at, level)
        factor = at / self.fit.points.tokens[-1]
        wider = self.slope_error.half_width(factor, level, bends=bends)
        other = self._noise(factor, level) if measurement else self._shared(value, level)
        wider = np.hypot(wider, other)
        low, high = value - np.hypot(value - low, wider), value + np.hypot(high - value, wider)
        return value, np.clip(low, 0.0, highest), np.clip(high, 0.0, highest)

    def tokens_to(self, ratio: float, level: float | None = None) -> TokensTo:
        """Tokens at which the curve reaches `ratio`: `reached`, `never` or `cannot say`.

        `never` comes from the limit's interval; `reached` only as far as predictions go.
        """
        if not 0 <= ratio <= self.own.law.highest:
            raise DefinitionError(
                f"a value lies between 0 and {self.own.law.highest:g}, got {ratio:g}"
            )
        if self._mixture is None or not self.fit.trend:
            reason = "too few points" if self._mixture is None else "the points show no trend"
            return TokensTo(ratio, "cannot say", None, None, None, reason)
        grid = np.geomspace(self.fit.points.tokens[0], self.farthest_tokens / BILLION, GRID)
        plain = grid * BILLION
        value, low, high = self.predict_many(plain, measurement=False, level=level)
        falls = float(self.own.solution.change[0]) < 0
        # The band as distances that the curve has gone beyond the ratio: least, best, most.
        most, best, least = (
            sign * (ratio - band)
            for sign, band in zip(
                (1, 1, 1) if falls else (-1, -1, -1),
                (low, value, high) if falls else (high, value, low),
                strict=True,
            )
        )
        first, middle, last = (first_at(each, plain) for each in (most, best, least))
        limit = self.limit(level)
        bound = limit.low if falls else limit.high
        if first is None and bound is not None and (bound - ratio) * (1 if falls else -1) > 0:
            reason = "the limit's interval lies on this side of it"
            return TokensTo(ratio, "never", None, None, None, reason)
        if middle is not None and last is not None:
            return TokensTo(ratio, "reached", middle, first, last, "the whole band reaches it")
        factor = self.farthest_tokens / self.last_tokens
        reason = f"not all of the band reaches it within {factor:g} times the tokens measured"
        return TokensTo(ratio, "cannot say", middle, first, last, reason)

    def as_dict(self, level: float | None = None) -> dict[str, Any]:
        """For JSON: limit, its interval, the verdict, weights of laws, the noise."""
        limit = self.limit(level)
        return {
            "limit": limit.value if limit.identified else None,
            "limit_interval": [limit.low, limit.high],
            "verdict": self.verdict.word,
            "verdict_reason": self.verdict.reason,
            "law_weights": {each.law.name: round(each.weight, 4) for each in self.laws.kept},
            "noise": {
                "correlation": self.laws.noise.rho,
                "variance_power": self.laws.noise.power,
                "shared_relative_error": self.shared_error,
            },
        }

    def _quantiles(self, at: Floats, level: float) -> Floats:
        assert self._mixture is not None
        chances = np.array([0.5, 0.5 - level / 2, 0.5 + level / 2])
        return self._mixture.quantiles(at, chances)

    def _shared(self, value: Any, level: float) -> Any:
        """Half the interval that the shared error makes at a value."""
        return ndtri(0.5 + level / 2) * self.shared_error * value

    def _noise(self, factor: Floats, level: float) -> Floats:
        """Half the interval of a new point about the curve at `factor` times the last tokens."""
        count = len(self.fit.points.tokens)
        variances = [
            float(each.solution.sse[0]) / (count - each.parameters)
            for each in self.laws.kept
            if count > each.parameters
        ]
        counts = self.fit.points.counts
        weight = self.laws.weights[-1] / (1.0 if counts is None else counts[-1])
        at_last = np.sqrt(min(variances) / weight)
        grown = np.minimum(np.log(np.maximum(factor, 1.0)), MOST_NOISE_GROWTH)
        freedom = max(count - self.own.parameters, 1)
        scale = stdtrit(freedom, 0.5 + level / 2) * at_last
        return scale * np.exp(-self.laws.noise.power * grown / 2)


def first_at(beyond: Floats, tokens: Floats) -> float | None:
    """The token count where `beyond` (q,) first rises to 0, between two of the grid's, or None."""
    index = np.flatnonzero(beyond >= 0)
    if not len(index):
        return None
    last = int(index[0])
    if last == 0:
        return float(tokens[0])
    share = beyond[last - 1] / (beyond[last - 1] - beyond[last])
    return float(tokens[last - 1] * (tokens[last] / tokens[last - 1]) ** share)


def weigh(fit: Fit, *, shared_error: float = 0.0) -> Evidence:
    """The evidence of a fitted curve of activation ratios.

    `shared_error`: relative standard error common to all its points (a share of the ratio).
    """
    laws = fit_laws(fit)
    return Evidence(fit, laws, slope_error(fit, laws.noise), shared_error, mixture(laws))
