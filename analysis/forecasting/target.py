"""What a study is to find out, and how precisely: the wished quantity of a curve."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal, NamedTuple

from sparsing.analysis.evidence.evidence import Evidence
from sparsing.study.errors import DefinitionError
from sparsing.study.units import count_text

Quantity = Literal["limit", "ratio", "tokens"]

LOOK_LEVEL = 0.975
"""A quantity is known where its interval of this level is as narrow as wished. Above 95 %, for a
run is looked at after every checkpoint, and the first look that says so stops it: over all looks
about 3 % of the stops are then wrong, second phases aside (`sparsing bench honesty`)."""


class Estimate(NamedTuple):
    """A quantity of a curve: its value and interval, None where open; and what it says of it."""

    value: float | None
    low: float | None
    high: float | None
    verdict: Literal["known", "never", "cannot say"]
    """`known`: with a closed interval. `never`: the ratio that is asked for is never reached."""

    @property
    def half_width(self) -> float:
        """Of the interval, in the quantity's unit; inf where a side is open."""
        if self.verdict == "never":
            return 0.0
        if self.low is None or self.high is None:
            return inf
        return (self.high - self.low) / 2


@dataclass(frozen=True, kw_only=True)
class Wish:
    """The limit; with `tokens` the ratio there; with `ratio` the tokens to it: to a `precision`.

    `precision` is the half width of the interval of LOOK_LEVEL: relative to the value, or, if
    `absolute`, in the quantity's own unit (a share of all neurons, or tokens). Raises
    DefinitionError where these do not go together.
    """

    tokens: float | None = None
    ratio: float | None = None
    precision: float = 0.1
    absolute: bool = False

    def __post_init__(self) -> None:
        if self.tokens is not None and self.ratio is not None:
            raise DefinitionError("give tokens (for the ratio there) or a ratio (for the tokens)")
        if self.tokens is not None and not (isfinite(self.tokens) and self.tokens > 0):
            raise DefinitionError(f"tokens = {self.tokens:g}: a count above 0 is needed")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise DefinitionError(f"ratio = {self.ratio:g}: it lies between 0 and 1")
        if not (isfinite(self.precision) and self.precision > 0):
            raise DefinitionError(f"precision = {self.precision:g}: above 0, such as 0.1 for 10 %")

    @property
    def quantity(self) -> Quantity:
        """What is wished: the `limit`, the `ratio` at some tokens, or the `tokens` to a ratio."""
        if self.tokens is not None:
            return "ratio"
        return "limit" if self.ratio is None else "tokens"

    def of(self, evidence: Evidence, level: float = LOOK_LEVEL) -> Estimate:
        """The quantity by a curve's evidence; of the curve itself, not of a noisy measurement."""
        if not evidence.fit.trend:
            return Estimate(None, None, None, "cannot say")
        if self.quantity == "limit":
            return _closed(*evidence.limit(level))
        if self.tokens is not None:
            return _closed(*evidence.predict(self.tokens, measurement=False, level=level))
        assert self.ratio is not None
        answer = evidence.tokens_to(self.ratio, level)
        if answer.verdict == "never":
            return Estimate(None, None, None, "never")
        return _closed(answer.tokens, answer.low, answer.high)

    def miss(self, estimate: Estimate) -> float:
        """The half width in multiples of the wished one: at most 1 where it is precise enough."""
        if estimate.half_width in (0.0, inf):
            return estimate.half_width
        scale = 1.0 if self.absolute else abs(estimate.value or 0.0)
        return estimate.half_width / (self.precision * scale) if scale else inf

    def text(self, value: float) -> str:
        """The quantity as people read it: a ratio, or a count of tokens."""
        return f"{count_text(value)} tokens" if self.quantity == "tokens" else f"{value:.4g}"

    def width_text(self, miss: float) -> str:
        """A half width of this many times the wished one."""
        width = miss * self.precision
        return f"{width:.3g}" if self.absolute else f"{100 * width:.3g} %"

    @property
    def name(self) -> str:
        """`limit`, `activation ratio at 8e+11 tokens`, `tokens to activation ratio 0.07`."""
        if self.tokens is not None:
            return f"activation ratio at {self.tokens:.4g} tokens"
        return "limit" if self.ratio is None else f"tokens to activation ratio {self.ratio:g}"

    @property
    def precision_text(self) -> str:
        """`10 %` or `0.005`."""
        return self.width_text(1.0)


def _closed(value: float | None, low: float | None, high: float | None) -> Estimate:
    known = value is not None and low is not None and high is not None
    return Estimate(value, low, high, "known" if known else "cannot say")
