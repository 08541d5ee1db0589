"""Laws to test the paper's against: logarithm, exponential, shifted power, Hill, logistic.

They may fall or rise, so that each can be held against both of the paper's forms.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from sparsing.analysis.laws.sparsity import ALPHA_GRID, Coordinate, Floats, Law, Parameters, Span

FALL_GRID = np.log(np.geomspace(1e-3, 300.0, 24))


class Logarithm(Law):
    """Without a limit: the neutral rival."""

    name = "logarithm"
    formula = "A = a + b * log(D)"
    meaning: ClassVar = {"a": "A at one billion tokens", "b": "change per factor e of tokens"}
    direction = 0
    coordinates = ()

    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """log D scaled to [0, 1]."""
        shape = np.log(tokens / span.first) / span.log_range
        return np.broadcast_to(shape, (*theta.shape[:-1], len(tokens)))

    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """Infinite: the law has no limit."""
        return np.full(theta.shape[:-1], np.inf)

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """a and b."""
        slope = change / span.log_range
        return {"a": start - slope * np.log(span.first), "b": slope}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """a + b log D."""
        return parameters["a"] + parameters["b"] * np.log(tokens)

    def tokens_at(self, ratio: float, **parameters: float) -> float:
        """exp((A - a) / b)."""
        if parameters["b"] == 0:
            return float("nan")
        return float(np.exp((ratio - parameters["a"]) / parameters["b"]))


class Exponential(Law):
    """The paper's ReLU law with alpha = 1; its coordinate is the fall of log(A - A0)."""

    name = "exponential"
    formula = "A = A0 + k * exp(-D / tau)"
    meaning: ClassVar = {
        "A0": "A at infinite data",
        "k": "A - A0 before any data",
        "tau": "billions of tokens per factor e of A - A0",
    }
    direction = 0
    coordinates = (Coordinate("log E", FALL_GRID),)
    limit_parameter = "A0"
    limit_not_negative = True

    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """(1 - exp(-E z)) / (1 - exp(-E)), z = D scaled to [0, 1]."""
        fall = np.exp(theta[..., :1])
        z = (tokens - span.first) / (span.last - span.first)
        return np.expm1(-fall * z) / np.expm1(-fall)

    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """1 / (1 - exp(-E))."""
        return -1 / np.expm1(-np.exp(theta[..., 0]))

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """A0, k, tau."""
        tau = (span.last - span.first) / np.exp(theta[..., 0])
        distance = change * self.shape_limit(theta, span)
        return {"A0": start + distance, "k": -distance * np.exp(span.first / tau), "tau": tau}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """A0 + k exp(-D / tau)."""
        limit, k, tau = (parameters[name] for name in self.parameter_names)
        return limit + k * np.exp(-np.asarray(tokens, dtype=float) / tau)


class ShiftedPower(Law):
    """A power law whose tokens start at -D0; coordinates are alpha and log(D0 / first)."""

    name = "shifted_power"
    formula = "A = A0 + k * (D + D0)^(-alpha)"
    meaning: ClassVar = {
        "alpha": "how fast A - A0 falls, in log-log",
        "D0": "billions of tokens by which the start is moved",
        "k": "A - A0 where D + D0 is one billion tokens",
        "A0": "A at infinite data",
    }
    direction = 0
    coordinates = (
        Coordinate("alpha", ALPHA_GRID),
        Coordinate("log D0", np.log(np.geomspace(1e-3, 1e3, 13))),
    )
    limit_parameter = "A0"
    limit_not_negative = True

    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """The Box-Cox transform of 1 / (D + D0), scaled to [0, 1]."""
        alpha, moved = theta[..., :1], span.first * np.exp(theta[..., 1:])
        logs = np.log((tokens + moved) / (span.first + moved))
        return np.expm1(-alpha * logs) / np.expm1(-alpha * self._log_range(moved, span))

    @staticmethod
    def _log_range(moved: Floats, span: Span) -> Floats:
        return np.log((span.last + moved) / (span.first + moved))

    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """1 / (1 - ((last + D0) / (first + D0))^-alpha)."""
        moved = span.first * np.exp(theta[..., 1])
        return -1 / np.expm1(-theta[..., 0] * self._log_range(moved, span))

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """alpha, D0, k, A0."""
        alpha, moved = theta[..., 0], span.first * np.exp(theta[..., 1])
        distance = change * self.shape_limit(theta, span)
        k = -distance * (span.first + moved) ** alpha
        return {"alpha": alpha, "D0": moved, "k": k, "A0": start + distance}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """A0 + k (D + D0)^-alpha."""
        alpha, moved, k, limit = (parameters[name] for name in self.parameter_names)
        return limit + k * (np.asarray(tokens, dtype=float) + moved) ** -alpha


class Hill(Law):
    """Saturation in log D; coordinates are log h and log(D50 / first)."""

    name = "hill"
    formula = "A = A1 + (A0 - A1) * D^h / (D^h + D50^h)"
    meaning: ClassVar = {
        "A1": "A before any data",
        "A0": "A at infinite data",
        "D50": "billions of tokens at which half the way is done",
        "h": "steepness in log D",
    }
    direction = 0
    coordinates = (
        Coordinate("log h", np.log(np.geomspace(0.05, 10.0, 14))),
        Coordinate("log D50", np.log(np.geomspace(1e-3, 1e4, 15))),
    )
    limit_parameter = "A0"
    limit_not_negative = True

    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """The saturation scaled to [0, 1]."""
        h, log_half = np.exp(theta[..., :1]), theta[..., 1:]
        logs = np.log(tokens / span.first)
        left = np.exp(h * (log_half - logs))
        left_last = np.exp(h * (log_half - span.log_range))
        done = np.expm1(-h * logs) / np.expm1(-h * span.log_range)
        return done * (1 + left_last) / (1 + left)

    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """The shape at infinite tokens."""
        h = np.exp(theta[..., 0])
        left_last = np.exp(h * (theta[..., 1] - span.log_range))
        return -(1 + left_last) / np.expm1(-h * span.log_range)

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """A1, A0, D50, h."""
        h = np.exp(theta[..., 0])
        limit = start + change * self.shape_limit(theta, span)
        whole = (limit - start) * (1 + np.exp(-h * theta[..., 1]))
        half = span.first * np.exp(theta[..., 1])
        return {"A1": limit - whole, "A0": limit, "D50": half, "h": h}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """A1 + (A0 - A1) / (1 + (D50 / D)^h)."""
        before, limit, half, h = (parameters[name] for name in self.parameter_names)
        ratio = (half / np.asarray(tokens, dtype=float)) ** h
        return before + (limit - before) / (1 + ratio)


class Logistic(Law):
    """Sigmoid in D; coordinates are log E = log(span / tau) and the share of the span at DM."""

    name = "logistic"
    formula = "A = A1 + (A0 - A1) / (1 + exp(-(D - DM) / tau))"
    meaning: ClassVar = {
        "A1": "A long before DM",
        "A0": "A at infinite data",
        "DM": "billions of tokens at the middle",
        "tau": "billions of tokens that set the width",
    }
    direction = 0
    coordinates = (
        Coordinate("log E", np.log(np.geomspace(0.05, 100.0, 16))),
        Coordinate("middle", np.linspace(-1.0, 2.0, 13)),
    )
    limit_parameter = "A0"
    limit_not_negative = True

    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """The sigmoid scaled to [0, 1]."""
        steep, middle = np.exp(theta[..., :1]), theta[..., 1:]
        z = (tokens - span.first) / (span.last - span.first)
        left, left_last = np.exp(steep * (middle - z)), np.exp(steep * (middle - 1))
        return np.expm1(-steep * z) / np.expm1(-steep) * (1 + left_last) / (1 + left)

    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """The shape at infinite tokens."""
        steep = np.exp(theta[..., 0])
        return -(1 + np.exp(steep * (theta[..., 1] - 1))) / np.expm1(-steep)

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """A1, A0, DM, tau."""
        steep, width = np.exp(theta[..., 0]), span.last - span.first
        limit = start + change * self.shape_limit(theta, span)
        whole = (limit - start) * (1 + np.exp(-steep * theta[..., 1]))
        middle = span.first + theta[..., 1] * width
        return {"A1": limit - whole, "A0": limit, "DM": middle, "tau": width / steep}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """A1 + (A0 - A1) / (1 + exp(-(D - DM) / tau))."""
        before, limit, middle, tau = (parameters[name] for name in self.parameter_names)
        left = np.exp(-(np.asarray(tokens, dtype=float) - middle) / tau)
        return before + (limit - before) / (1 + left)


RIVALS: dict[str, Law] = {
    law.name: law for law in (Logarithm(), Exponential(), ShiftedPower(), Hill(), Logistic())
}
"""Laws that the paper's are tested against."""
