"""A fitted law: `Fit` holds the estimates, says what is identified, and predicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparsing.analysis.fitting.comparison import Compared, compare_laws
from sparsing.analysis.fitting.fit_table import Bounds, bounds_text, number
from sparsing.analysis.fitting.names import Loss
from sparsing.analysis.fitting.points import Points
from sparsing.analysis.fitting.prediction import Prediction, TokensTo, band, tokens_to
from sparsing.analysis.fitting.projection import Problem, Solution
from sparsing.analysis.fitting.region import Region, confidence_region
from sparsing.analysis.laws.sparsity import Floats, Law
from sparsing.study.display.table import Column, Table
from sparsing.study.errors import DefinitionError


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A law with estimated parameters on stated points; prints itself as a table.

    Tokens are plain at this interface; the law's parameters speak of billions.
    """

    law: str
    parameters: dict[str, float | None]
    """None where the points say nothing about a parameter, as on a constant curve."""
    intervals: dict[str, Bounds]
    """At `level`; None = open on that side."""
    identified: dict[str, bool]
    """Whether the interval is closed on both sides."""
    dropped: int
    """Early points that were not fitted."""
    mse: float
    """Weighted mean squared error over the points fitted."""
    n: int
    """Points fitted."""
    level: float
    loss: Loss
    warnings: tuple[str, ...]
    fit_seconds: float
    points: Points = field(repr=False)
    """The points fitted."""
    settings: dict[str, Any] = field(repr=False)
    """What is needed to repeat the fit."""
    problem: Problem = field(repr=False)
    solution: Solution = field(repr=False)
    _regions: dict[float, Region | None] = field(default_factory=dict, repr=False)

    @property
    def form(self) -> Law:
        """The law as an object."""
        return self.problem.law

    @property
    def limit_parameter(self) -> str | None:
        """Name of the parameter that is the limit at infinite data, if the law has one."""
        return self.problem.law.limit_parameter

    @property
    def limit(self) -> float | None:
        """Activation ratio at infinite data; None where it is not identified."""
        name = self.limit_parameter
        return self.parameters[name] if name and self.identified[name] else None

    @cached_property
    def compared(self) -> dict[str, Compared]:
        """This law and all its rivals on the same points, and on first parts of them."""
        return compare_laws(self.points)

    @property
    def criteria(self) -> dict[str, dict[str, float | None]]:
        """AICc, BIC and hold-out error of this law and all its rivals."""
        return {name: each.criteria for name, each in self.compared.items()}

    def predict(self, tokens: float, *, measurement: bool = True) -> Prediction:
        """The ratio at `tokens`, with the interval of a new measurement, or of the law itself."""
        if self.region(self.level) is None:
            return Prediction(None, None, None)
        found = self.predict_many([tokens], measurement=measurement)
        return Prediction(*(float(column[0]) for column in found))

    def predict_many(
        self, tokens: ArrayLike, *, measurement: bool = True, level: float | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """Values, lows and highs at `tokens` (q,), within what is possible."""
        law = self.problem.law
        at = np.asarray(tokens, dtype=float) / law.unit
        if not (np.isfinite(at) & (at > 0)).all():
            raise DefinitionError("predictions need token counts above 0")
        with np.errstate(over="ignore"):  # far before the first point
            shape = law.shape(at, self.solution.theta[0], self.problem.span)
            value = self.solution.start[0] + self.solution.change[0] * shape
        region = self.region(level or self.level)
        low, high = np.zeros(len(at)), np.full(len(at), law.highest)
        if region is not None:
            low, high = band(region, at, measurement=measurement)
        low, value, high = (np.clip(each, 0.0, law.highest) for each in (low, value, high))
        return value, low, high

    def tokens_to(self, ratio: float) -> TokensTo:
        """Tokens at which the law reaches `ratio`: `reached`, `never` or `cannot say`."""
        law = self.problem.law
        if not 0 <= ratio <= law.highest:
            raise DefinitionError(f"a value lies between 0 and {law.highest:g}, got {ratio:g}")
        region = self.region(self.level)
        if region is None or not self.trend:
            reason = "too few points" if region is None else "the points show no trend"
            return TokensTo(ratio, "cannot say", None, None, None, reason)
        parameters = {k: v for k, v in self.parameters.items() if v is not None}
        with np.errstate(over="ignore"):
            best = law.tokens_at(ratio, **parameters)
        return tokens_to(region, ratio, best)

    def mse_of(self, **parameters: float) -> float:
        """Weighted mean squared error that other coefficients of the same law have here."""
        if set(parameters) != set(self.form.parameter_names):
            wanted = ", ".join(self.form.parameter_names)
            raise DefinitionError(f"the {self.law} law has the coefficients {wanted}")
        with np.errstate(all="ignore"):
            misses = self.points.values - self.form.value(self.points.tokens, **parameters)
        weights = self.problem.weights
        missed = float((weights * misses**2).sum()) + self.points.scattered
        return missed / float(weights.sum())

    @property
    def trend(self) -> bool:
        """Whether the points tell the law from a constant, at `level`."""
        region = self.region(self.level)
        return region is not None and region.trend

    def region(self, level: float) -> Region | None:
        """The confidence region; None where points are too few for one."""
        if level not in self._regions:
            count = 2 + len(self.problem.law.coordinates)
            self._regions[level] = confidence_region(self.problem, self.solution, count, level)
        return self._regions[level]

    def as_dict(self) -> dict[str, Any]:
        """The document that `sparsing fit --json` prints."""
        return {
            "law": self.law,
            "parameters": self.parameters,
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "identified": self.identified,
            "limit": self.limit,
            "dropped": self.dropped,
            "mse": self.mse,
            "n": self.points.measured,
            "criteria": self.criteria,
            "warnings": list(self.warnings),
            "level": self.level,
            "loss": self.loss,
            "fit_seconds": self.fit_seconds,
        }

    def table(self) -> Table:
        """The parameters with intervals and what they mean; warnings are its notes."""
        law, counts = self.form, f"{self.n} points, {self.dropped} early ones dropped"
        title = f"{law.name}: {law.formula}   (D in billions of tokens)"
        title += f"\n{counts}, mean squared error {self.mse:.4g}"
        interval = f"{self.level:.0%} interval"
        columns = [Column(each) for each in ("parameter", "value", interval)]
        shown = Table([*columns, Column("meaning", prose=True)], title=title)
        for name, meaning in law.meaning.items():
            value = number(self.parameters[name]) if self.identified[name] else "not identified"
            shown.add(name, value, bounds_text(self.intervals[name]), meaning)
        shown.notes = [f"note: {each}" for each in self.warnings]
        return shown

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()
