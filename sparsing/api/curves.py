"""`sparsing.fit`: the laws of activation sparsity on any curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.fit_curve import fit_curve
from sparsing.api.shown import Picture, Shown
from sparsing.study.display.table import Table


def fit(tokens: ArrayLike, activation_ratio: ArrayLike, **options: Any) -> FittedCurve:
    """Fit a law to a curve of activation ratios against plain training tokens.

    Args:
        tokens: training tokens of each point, (n,).
        activation_ratio: in [0, 1], (n,).
        options: `law` ("auto", "relu", "silu" or a rival's name), `drop` (early points to leave
            out; by default as many as the BIC asks for), `weights`, `loss`, `level`.

    Raises:
        DefinitionError: no law can be fitted to such points.
    """
    made = fit_curve(tokens, activation_ratio, **options)
    return FittedCurve(made, np.asarray(tokens, float), np.asarray(activation_ratio, float))


class FittedCurve(Shown):
    """A law with estimated parameters on a curve; `fit` has all there is to ask."""

    def __init__(self, fit: Fit, tokens: np.ndarray, activation_ratio: np.ndarray) -> None:
        self.fit = fit
        self.tokens, self.activation_ratio = tokens, activation_ratio

    def __getattr__(self, name: str) -> Any:
        """What is not here is the fit's: `law`, `parameters`, `limit`, `predict` ..."""
        if name.startswith("_") or name == "fit":
            raise AttributeError(name)
        return getattr(self.fit, name)

    def table(self) -> Table:
        """The parameters with intervals and what they mean; warnings are its notes."""
        return self.fit.table()

    def plot(self) -> Picture:
        """The curve, the law and its band; and the law straightened out."""
        from sparsing.analysis.curves.files import CurveFile
        from sparsing.analysis.curves.plot import curves_figure

        curve = CurveFile(
            name="curve",
            tokens=self.tokens,
            activation_ratio=self.activation_ratio,
            weights=None,
            notes=(),
        )
        return Picture(curves_figure([(curve, self.fit)]))
