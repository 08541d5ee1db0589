"""`sparsing.fit`: the laws of activation sparsity on any curve."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparsing.analysis.curves.files import read_curves
from sparsing.analysis.evidence.evidence import Answer, Evidence, weigh
from sparsing.analysis.evidence.verdict import Verdict
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.analysis.fitting.fit_table import evidence_lines
from sparsing.analysis.fitting.prediction import TokensTo
from sparsing.api.shown import Picture, Shown
from sparsing.study.display.table import Table

__all__ = ["FittedCurve", "fit", "read_curves"]


def fit(
    tokens: ArrayLike, activation_ratio: ArrayLike, *, name: str = "curve", **options: Any
) -> FittedCurve:
    """Fit a law to a curve of activation ratios against plain training tokens.

    Args:
        tokens: training tokens of each point, (n,).
        activation_ratio: in [0, 1], (n,).
        name: title of its plot.
        options: `law` ("auto", "relu", "silu" or a rival's name), `drop` (early points to leave
            out; by default as many as the BIC asks for), `weights`, `loss`, `level`.

    Raises:
        DefinitionError: no law can be fitted to such points.
    """
    made = fit_curve(tokens, activation_ratio, **options)
    return FittedCurve(made, np.asarray(tokens, float), np.asarray(activation_ratio, float), name)


class FittedCurve(Shown):
    """A law fitted to a curve, and what the curve says by all laws that it cannot refuse.

    `fit` has the law's parameters, `evidence` everything else; tokens are plain numbers.
    """

    def __init__(
        self, fit: Fit, tokens: np.ndarray, activation_ratio: np.ndarray, name: str = "curve"
    ) -> None:
        self.fit, self.name = fit, name
        self.tokens, self.activation_ratio = tokens, activation_ratio

    @cached_property
    def evidence(self) -> Evidence:
        """All laws with their weights, the noise, and how far forecasts went wrong."""
        return weigh(self.fit)

    @property
    def law(self) -> str:
        """Name of the law fitted."""
        return self.fit.law

    @property
    def parameters(self) -> dict[str, float | None]:
        """Of the law fitted, which speaks of billions of tokens; None: the points say nothing."""
        return self.fit.parameters

    @property
    def intervals(self) -> dict[str, tuple[float | None, float | None]]:
        """Of the parameters; a side that is None is open."""
        return self.fit.intervals

    @property
    def verdict(self) -> Verdict:
        """Whether the law holds on these points."""
        return self.evidence.verdict

    @property
    def limit(self) -> Answer:
        """The ratio at infinite data, with its interval; by all laws."""
        return self.evidence.limit()

    def predict(self, tokens: float) -> Answer:
        """The ratio of a measurement at `tokens`, with its interval; None where nothing is said."""
        return self.evidence.predict(tokens)

    def tokens_to(self, ratio: float) -> TokensTo:
        """Tokens at which the curve reaches `ratio`: `reached`, `never` or `cannot say`."""
        return self.evidence.tokens_to(ratio)

    def as_dict(self) -> dict[str, Any]:
        """The document of `sparsing fit --json`."""
        return self.fit.as_dict() | self.evidence.as_dict()

    def table(self) -> Table:
        """The parameters with intervals and what they mean; verdict and limit are its notes."""
        shown = self.fit.table()
        shown.notes += evidence_lines(self.evidence.as_dict(), self.fit.level)
        return shown

    def plot(self) -> Picture:
        """The curve with its band; and the law straightened out."""
        from sparsing.analysis.curves.plot import PlottedCurve, curves_figure

        curve = PlottedCurve(self.name, self.tokens, self.activation_ratio)
        return Picture(curves_figure([(curve, self.fit)]))
