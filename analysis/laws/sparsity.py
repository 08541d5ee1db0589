"""The laws of activation sparsity as objects: formula, value, derivative, inverse, limit.

Every law is written `A(D) = start + change * shape(D; theta)`: linear in `start` and `change`,
nonlinear only in `theta`, its coordinates. `shape` is 0 at the first measured token count and 1 at
the last, whatever the units and whatever theta, so that nothing degenerates where the paper's own
parameters do (alpha -> 0 sends b and c to infinity) and no start value is needed. `parameters`
turns such a solution into the paper's parameters (Table 2); tokens D are in billions throughout.

A new law is one small class: its coordinates, its shape, its parameters and its value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Parameters = dict[str, Any]

STEP = 1e-6
"""Of differences by a coordinate."""
ALPHA_GRID = np.concatenate([[1e-3], np.geomspace(0.03, 10.0, 17)])


@dataclass(frozen=True)
class Span:
    """The first and the last token count of the points fitted, in billions."""

    first: float
    last: float

    @property
    def log_range(self) -> float:
        """Natural logarithm of last / first."""
        return float(np.log(self.last / self.first))


@dataclass(frozen=True)
class Coordinate:
    """One nonlinear coordinate of a law: its coarse grid, whose ends are its bounds."""

    name: str
    grid: Floats

    @property
    def low(self) -> float:
        """Lower bound."""
        return float(self.grid[0])

    @property
    def high(self) -> float:
        """Upper bound."""
        return float(self.grid[-1])


class Law(ABC):
    """A law of one variable; see the module's docstring for the form it is fitted in."""

    name: ClassVar[str]
    formula: ClassVar[str]
    meaning: ClassVar[dict[str, str]]
    """What each parameter means, in the order in which they are printed."""
    direction: ClassVar[int]
    """Sign of the change that the law allows: -1 falls, 1 rises, 0 either."""
    coordinates: ClassVar[tuple[Coordinate, ...]]
    limit_parameter: ClassVar[str | None] = None
    """The parameter that is the limit at infinite data, if the law has one."""
    limit_not_negative: ClassVar[bool] = False
    """Whether the fit keeps the limit at or above 0."""
    unit: ClassVar[float] = 1e9
    """What the law counts in: it speaks of billions of tokens, its callers of tokens."""
    highest: ClassVar[float] = 1.0
    """Highest possible value; the lowest is 0."""

    @abstractmethod
    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """0 at span.first, 1 at span.last; tokens (n,), theta (..., k) -> (..., n)."""

    def slopes(
        self, tokens: Floats, theta: Floats, span: Span, which: tuple[int, ...]
    ) -> tuple[Floats, Floats]:
        """The shape (B, n) and its derivatives by the coordinates `which` (B, len(which), n).

        By differences; a law whose speed matters overrides this.
        """
        shape = self.shape(tokens, theta, span)
        columns = []
        for index in which:
            # Backwards at the upper bound, so that the shape is never asked for beyond it.
            high = self.coordinates[index].high
            step = np.where(theta[:, index] + STEP <= high, STEP, -STEP)
            moved = theta.copy()
            moved[:, index] += step
            columns.append((self.shape(tokens, moved, span) - shape) / step[:, None])
        return shape, np.stack(columns, axis=1)

    @abstractmethod
    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """The shape at infinite tokens (inf where it has no limit); theta (..., k) -> (...)."""

    @abstractmethod
    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """The law's own parameters; theta (..., k), start and change (...) -> arrays (...)."""

    @abstractmethod
    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """A at `tokens` billions."""

    def derivative(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """dA/dD per billion tokens (Fig 8), by central differences in log D."""
        tokens = np.asarray(tokens, dtype=float)
        step = 1e-5
        high = self.value(tokens * np.exp(step), **parameters)
        low = self.value(tokens * np.exp(-step), **parameters)
        return (high - low) / (2 * step * tokens)

    def limit(self, **parameters: float) -> float:
        """A at infinite data; nan where the law has no limit."""
        return float(parameters[self.limit_parameter]) if self.limit_parameter else float("nan")

    def tokens_at(self, ratio: float, **parameters: float) -> float:
        """Billions of tokens at which A is `ratio`; nan where it never is.

        Searched between 1e-12 and 1e12 billions; a law with a closed inverse overrides this.
        """

        from scipy.optimize import brentq  # slow to import, and hardly ever needed

        def miss(log_tokens: float) -> float:
            return float(self.value(np.exp(log_tokens), **parameters)) - ratio

        low, high = np.log(1e-12), np.log(1e12)
        if not miss(low) * miss(high) < 0:
            return float("nan")
        return float(np.exp(brentq(miss, low, high, xtol=1e-12)))

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order in which they are printed."""
        return tuple(self.meaning)


class LogspacePowerLaw(Law):
    """The paper's law for ReLU: falling, with a limit.

    Coordinates are alpha and log E, where E is the fall of log(A - A0) over the points measured.
    """

    name = "relu"
    formula = "A = exp(-c * D^alpha + b) + A0"
    meaning: ClassVar = {
        "alpha": "how fast log(A - A0) falls with log D",
        "b": "log of A - A0 before any data",
        "c": "pace: c * D^alpha = 1 at the natural scale",
        "A0": "activation ratio at infinite data",
    }
    direction = -1
    coordinates = (
        Coordinate("alpha", ALPHA_GRID),
        Coordinate("log E", np.log(np.geomspace(1e-3, 300.0, 24))),
    )
    limit_parameter = "A0"
    limit_not_negative = True

    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """(1 - exp(-E z)) / (1 - exp(-E)), z the Box-Cox transform of D scaled to [0, 1]."""
        alpha, fall = theta[..., :1], np.exp(theta[..., 1:])
        z = np.expm1(alpha * np.log(tokens / span.first)) / np.expm1(alpha * span.log_range)
        return np.expm1(-fall * z) / np.expm1(-fall)

    def slopes(
        self, tokens: Floats, theta: Floats, span: Span, which: tuple[int, ...]
    ) -> tuple[Floats, Floats]:
        """The shape and its derivatives in closed form."""
        alpha, fall = theta[:, :1], np.exp(theta[:, 1:])
        logs, log_range = np.log(tokens / span.first), span.log_range
        grown, whole = np.expm1(alpha * logs), np.expm1(alpha * log_range)
        z = grown / whole
        fallen, all_fallen = np.expm1(-fall * z), np.expm1(-fall)
        shape = fallen / all_fallen
        slopes = np.empty((len(theta), len(which), len(tokens)))
        for i, index in enumerate(which):
            if index == 0:
                dz = (logs * (grown + 1) - log_range * (whole + 1) * z) / whole
                slopes[:, i] = dz * (fallen + 1) * (-fall / all_fallen)
            else:
                inner = shape * (all_fallen + 1) - z * (fallen + 1)
                slopes[:, i] = inner * (fall / all_fallen)
        return shape, slopes

    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """1 / (1 - exp(-E))."""
        return -1 / np.expm1(-np.exp(theta[..., 1]))

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """alpha, b, c, A0."""
        alpha, limit_shape = theta[..., 0], self.shape_limit(theta, span)
        exponent = np.exp(theta[..., 1]) / np.expm1(alpha * span.log_range)
        with np.errstate(divide="ignore", invalid="ignore"):
            b = np.log(-change * limit_shape) + exponent
        c = exponent * span.first**-alpha
        return {"alpha": alpha, "b": b, "c": c, "A0": start + change * limit_shape}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """exp(b - c D^alpha) + A0."""
        alpha, b, c, limit = (parameters[name] for name in self.parameter_names)
        return np.exp(b - c * np.asarray(tokens, dtype=float) ** alpha) + limit

    def derivative(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """-c alpha D^(alpha - 1) exp(b - c D^alpha), per billion tokens."""
        alpha, b, c, _ = (parameters[name] for name in self.parameter_names)
        tokens = np.asarray(tokens, dtype=float)
        return -c * alpha * tokens ** (alpha - 1) * np.exp(b - c * tokens**alpha)

    def tokens_at(self, ratio: float, **parameters: float) -> float:
        """((b - log(A - A0)) / c)^(1 / alpha); nan outside (A0, A0 + exp(b))."""
        alpha, b, c, limit = (parameters[name] for name in self.parameter_names)
        fall = b - np.log(ratio - limit) if ratio > limit else -1.0
        return float(np.exp(np.log(fall / c) / alpha)) if fall > 0 else float("nan")


class PowerLaw(Law):
    """The paper's law for SiLU: rising, with a limit; its coordinate is alpha."""

    name = "silu"
    formula = "A = A0 - c * D^(-alpha)"
    meaning: ClassVar = {
        "alpha": "how fast A0 - A falls, in log-log",
        "c": "A0 - A at one billion tokens",
        "A0": "activation ratio at infinite data",
    }
    direction = 1
    coordinates = (Coordinate("alpha", ALPHA_GRID),)
    limit_parameter = "A0"

    def shape(self, tokens: Floats, theta: Floats, span: Span) -> Floats:
        """The Box-Cox transform of 1 / D, scaled to [0, 1]."""
        alpha = theta[..., :1]
        return np.expm1(-alpha * np.log(tokens / span.first)) / np.expm1(-alpha * span.log_range)

    def slopes(
        self, tokens: Floats, theta: Floats, span: Span, which: tuple[int, ...]
    ) -> tuple[Floats, Floats]:
        """The shape and its derivative in closed form."""
        alpha, logs, log_range = theta[:, :1], np.log(tokens / span.first), span.log_range
        gone, whole = np.expm1(-alpha * logs), np.expm1(-alpha * log_range)
        shape = gone / whole
        slope = (log_range * (whole + 1) * shape - logs * (gone + 1)) / whole
        return shape, slope[:, None]

    def shape_limit(self, theta: Floats, span: Span) -> Floats:
        """1 / (1 - (last / first)^-alpha)."""
        return -1 / np.expm1(-theta[..., 0] * span.log_range)

    def parameters(self, theta: Floats, start: Floats, change: Floats, span: Span) -> Parameters:
        """alpha, c, A0."""
        alpha, distance = theta[..., 0], change * self.shape_limit(theta, span)
        return {"alpha": alpha, "c": distance * span.first**alpha, "A0": start + distance}

    def value(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """A0 - c D^-alpha."""
        alpha, c, limit = (parameters[name] for name in self.parameter_names)
        return limit - c * np.asarray(tokens, dtype=float) ** -alpha

    def derivative(self, tokens: ArrayLike, **parameters: float) -> Floats:
        """c alpha D^(-alpha - 1), per billion tokens."""
        alpha, c, _ = (parameters[name] for name in self.parameter_names)
        return c * alpha * np.asarray(tokens, dtype=float) ** (-alpha - 1)

    def tokens_at(self, ratio: float, **parameters: float) -> float:
        """(c / (A0 - A))^(1 / alpha); nan at and beyond the limit."""
        alpha, c, limit = (parameters[name] for name in self.parameter_names)
        if not ratio < limit:
            return float("nan")
        return float(np.exp(np.log(c / (limit - ratio)) / alpha))


PAPER_LAWS: dict[str, Law] = {law.name: law for law in (LogspacePowerLaw(), PowerLaw())}
"""The laws among which `auto` chooses."""
