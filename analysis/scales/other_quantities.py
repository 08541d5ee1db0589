"""Laws of other quantities: training loss, width-depth ratio, limits against scale.

They are fitted with `fit_curve(x, y, law=...)` as the others are, x in plain units.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.laws.rivals import Logarithm
from sparsing.analysis.laws.sparsity import Coordinate, Floats, Law, Parameters, PowerLaw, Span


class LossPowerLaw(PowerLaw):
    """Training loss of one run against tokens (Figs 13, 14): falling, with a limit."""

    name = "loss"
    formula = "L = L0 + c * D^(-alpha)"
    meaning: ClassVar = {
        "alpha": "how fast L - L0 falls, in log-log",
        "c": "L - L0 at one billion tokens",
        "L0": "loss at infinite data",
    }
    direction = -1
    limit_parameter = "L0"
    limit_not_negative = True
    highest = np.inf

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """alpha, c, L0."""
        rising = super().parameters(theta, start, change, span)
        return {"alpha": rising["alpha"], "c": -rising["c"], "L0": rising["A0"]}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """L0 + c D^-alpha."""
        alpha, c, limit = (parameters[name] for name in self.parameter_names)
        return limit + c * np.asarray(tokens, dtype=float) ** -alpha

    def derivative(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """-c alpha D^(-alpha - 1), per billion tokens."""
        alpha, c, _ = (parameters[name] for name in self.parameter_names)
        return -c * alpha * np.asarray(tokens, dtype=float) ** (-alpha - 1)

    def tokens_at(self, ratio: float, **parameters: float) -> float:
        """(c / (L - L0))^(1 / alpha); nan at and below the limit."""
        alpha, c, limit = (parameters[name] for name in self.parameter_names)
        if not ratio > limit:
            return float("nan")
        return float(np.exp(np.log(c / (ratio - limit)) / alpha))


class WidthDepthLaw(Law):
    """Limit of the activation ratio against d_h / layers (Fig 5): a slope, then flat."""

    name = "width_depth"
    formula = "A0 = A_flat - slope * max(0, bottleneck - ratio)"
    meaning: ClassVar = {
        "slope": "rise per unit of d_h / layers, below the bottleneck",
        "bottleneck": "d_h / layers where the rise ends",
        "A_flat": "limit of the activation ratio beyond it",
    }
    direction = 1
    coordinates = (Coordinate("place of the bottleneck", np.linspace(0.02, 1.0, 99)),)
    limit_parameter = "A_flat"
    unit = 1.0

    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """The part of the way to the bottleneck; `tokens` are width-depth ratios."""
        rise = self._bottleneck(theta[..., :1], span) - span.first
        return np.minimum((tokens - span.first) / rise, 1.0)

    @staticmethod
    def _bottleneck(place: Floats, span: Span) -> Floats:
        return span.first * np.exp(place * span.log_range)

    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """1."""
        return np.ones(theta.shape[:-1])

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """slope, bottleneck, A_flat."""
        bottleneck = self._bottleneck(theta[..., 0], span)
        slope = change / (bottleneck - span.first)
        return {"slope": slope, "bottleneck": bottleneck, "A_flat": start + change}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """A_flat - slope max(0, bottleneck - ratio)."""
        slope, bottleneck, flat = (parameters[name] for name in self.parameter_names)
        return flat - slope * np.maximum(0.0, bottleneck - np.asarray(tokens, dtype=float))


class ScaleLaw(Logarithm):
    """Limit of the activation ratio against non-embedding parameters (Fig 7): weakly dependent."""

    name = "scale"
    formula = "A0 = a + b * log(N)"
    meaning: ClassVar = {"a": "A0 at one billion parameters", "b": "change per factor e"}


def derivative_by_data_ratio(
    fit: Fit, parameters: float, tokens_per_parameter: ArrayLike
) -> Floats:
    """dA/dD per billion tokens of a fit, against tokens per parameter (Fig 8).

    `parameters`: of the run's model, so that curves of several scales lie over one another.
    """
    billions = np.asarray(tokens_per_parameter, dtype=float) * parameters / fit.form.unit
    known = {name: value for name, value in fit.parameters.items() if value is not None}
    if len(known) < len(fit.parameters):
        return np.zeros(billions.shape)  # a curve without a trend
    return fit.form.derivative(billions, **known)
