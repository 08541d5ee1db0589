"""Points of a curve: checked, sorted, in billions of tokens; what was done to them is said."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from sparsing.analysis.laws.sparsity import Floats, Span
from sparsing.study.errors import DefinitionError

BILLION = 1e9
FARTHEST = 1e12
"""Token counts lie within this factor of the law's unit."""
CLOSEST = 1e-9
"""Token counts that differ by less than this part of them are the same."""


MOST_POINTS = 1000
"""More points than these are joined, so that the effort of a fit does not grow with them."""


@dataclass(frozen=True)
class Points:
    """Points by rising tokens (billions): tokens, values, weights of mean 1, each (n,)."""

    tokens: Floats
    values: Floats
    weights: Floats
    span: Span
    """Of all points of the curve, also of those dropped since."""
    warnings: tuple[str, ...] = ()
    counts: Floats | None = None
    """Measured points joined in each of these; None: one each."""
    scatter: Floats | None = None
    """Weighted sum of squares of the measured points about each joined one; None: 0."""

    def after(self, dropped: int) -> Points:
        """Without the first `dropped` points."""
        counts = None if self.counts is None else self.counts[dropped:]
        weights = normalized(self.weights[dropped:])
        return replace(
            self,
            tokens=self.tokens[dropped:],
            values=self.values[dropped:],
            weights=weights if counts is None else weights * counts.mean(),
            counts=counts,
            scatter=None if self.scatter is None else self.scatter[dropped:],
        )

    @property
    def measured(self) -> int:
        """Points measured: joined ones count one by one."""
        return len(self.tokens) if self.counts is None else int(self.counts.sum())

    @property
    def scattered(self) -> float:
        """Weighted sum of squares of measured points about the ones that they are joined in."""
        return 0.0 if self.scatter is None else float(self.scatter.sum())

    def joined(self, most: int = MOST_POINTS) -> Points:
        """Neighbours joined, by equal steps of log tokens, where there are more than `most`.

        A joined point has the weighted means of its neighbours and the sum of their weights, so
        that sums of squares about a law still say how far single points scatter.
        """
        if len(self.tokens) <= most:
            return self
        places = np.log(self.tokens / self.tokens[0]) / np.log(self.tokens[-1] / self.tokens[0])
        cells = np.minimum((places * most).astype(int), most - 1)
        _, cell = np.unique(cells, return_inverse=True)
        weights: Floats = np.bincount(cell, self.weights).astype(float)
        values = np.bincount(cell, self.weights * self.values) / weights
        missed = self.weights * (self.values - values[cell]) ** 2
        said = (
            f"{len(self.tokens)} points were joined into {len(weights)}, by equal steps of log "
            "tokens, each with the weight of its points"
        )
        return replace(
            self,
            tokens=np.bincount(cell, self.weights * self.tokens) / weights,
            values=values,
            weights=weights,
            warnings=(*self.warnings, said),
            counts=np.bincount(cell).astype(float),
            scatter=np.bincount(cell, missed).astype(float),
        )


def different(tokens: Floats) -> bool:
    """Whether there are at least two different token counts."""
    return len(tokens) > 1 and bool(tokens.max() - tokens.min() > CLOSEST * tokens.max())


def normalized(weights: Floats) -> Floats:
    """Weights scaled to a mean of 1, as far as there are any."""
    return weights / weights.mean() if len(weights) else weights


def read_points(
    tokens: ArrayLike,
    values: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    unit: float = BILLION,
    highest: float = 1.0,
) -> Points:
    """Check and sort the points of a curve; `tokens` in plain tokens, `unit` that of the law.

    Points that are not numbers, or at 0 tokens, are left out with a warning. Raises
    DefinitionError where lengths differ, fewer than two different token counts remain, tokens or
    weights are negative, or a value is not between 0 and `highest`.
    """
    x, y = _column("tokens", tokens), _column("activation_ratio", values)
    w = np.ones_like(y) if weights is None else _column("weights", weights)
    if not len(x) == len(y) == len(w):
        counts = f"{len(x)} token counts, {len(y)} values"
        given = "" if weights is None else f", {len(w)} weights"
        raise DefinitionError(f"a curve needs as many of each: got {counts}{given}")
    if (x < 0).any() or (w < 0).any():
        raise DefinitionError("token counts and weights must not be negative")
    warnings = []
    number = np.isfinite(x) & np.isfinite(y) & np.isfinite(w)
    if not number.all():
        warnings.append(f"{(~number).sum()} points without a number were left out")
    at_zero = number & (x == 0)
    if at_zero.any():
        warnings.append(
            f"{at_zero.sum()} points at 0 tokens were left out: the laws start after it"
        )
    kept = number & (x > 0) & (w > 0)
    x, y, w = x[kept], y[kept], w[kept]
    if not different(x):
        raise DefinitionError(
            f"a fit needs points at two token counts or more; usable points: {len(x)}"
        )
    if x.min() < unit / FARTHEST or x.max() > unit * FARTHEST:
        raise DefinitionError(
            f"token counts go from {x.min():g} to {x.max():g}; the law speaks of "
            f"{unit / FARTHEST:g} to {unit * FARTHEST:g}"
        )
    if y.min() < 0 or y.max() > highest:
        remedy = "; divide percentages by 100" if highest == 1 and y.max() <= 100 else ""
        raise DefinitionError(
            f"values lie between 0 and {highest:g}, but this curve goes from {y.min():g} to "
            f"{y.max():g}{remedy}"
        )
    order = np.argsort(x, kind="stable")
    x = x[order] / unit
    span = Span(float(x[0]), float(x[-1]))
    return Points(x, y[order], normalized(w[order]), span, tuple(warnings))


def _column(name: str, values: ArrayLike) -> Floats:
    try:
        column = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise DefinitionError(f"{name} must be numbers: {error}") from error
    if column.ndim != 1:
        raise DefinitionError(f"{name} must be one list of numbers, got shape {column.shape}")
    return column
