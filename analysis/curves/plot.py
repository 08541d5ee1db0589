"""Plots of curves with their laws: the curve with its band, and a linearized view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparsing.analysis.curves.files import FileCurve
from sparsing.analysis.evidence.evidence import weigh
from sparsing.analysis.fitting.fit import Fit
from sparsing.analysis.fitting.points import BILLION
from sparsing.analysis.laws.sparsity import Floats
from sparsing.study.errors import DefinitionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AHEAD = 1.6
"""The law is drawn up to this many times the last point."""


@dataclass(frozen=True)
class PlottedCurve:
    """A curve with its title: plain tokens and ratios, (n,) each."""

    title: str
    tokens: Floats
    activation_ratio: Floats

    @classmethod
    def of(cls, curve: FileCurve) -> PlottedCurve:
        """A curve of a file, called by the file's name and its series."""
        title = ", ".join([Path(curve.source.file).stem, *curve.source.series.values()])
        return cls(title, curve.tokens, curve.activation_ratio)


def plot_curves(path: str, fits: Sequence[tuple[FileCurve, Fit]]) -> None:
    """Draw each curve, its law and band (left), and the law straightened out (right)."""
    try:
        plotted = [(PlottedCurve.of(curve), fit) for curve, fit in fits]
        curves_figure(plotted).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise DefinitionError(f"the plot cannot be written to {path}: {error}") from error


def curves_figure(fits: Sequence[tuple[PlottedCurve, Fit]]) -> Figure:
    """Each curve, its law and band (left), and the law straightened out (right)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4 * len(fits)), layout="constrained")
    for (curve, fit), axes in zip(fits, figure.subplots(len(fits), 2, squeeze=False), strict=True):
        _draw_curve(axes[0], curve, fit)
        _draw_linearized(axes[1], fit)
    return figure


def _draw_curve(axes, curve: PlottedCurve, fit: Fit) -> None:  # type: ignore[no-untyped-def]
    last = float(np.nanmax(curve.tokens))
    tokens = np.linspace(fit.points.tokens[0] * BILLION, last * AHEAD, 300)
    evidence = weigh(fit)
    value, low, high = evidence.predict_many(tokens)
    axes.plot(curve.tokens / BILLION, curve.activation_ratio, "o", ms=4, color="0.6")
    fitted = fit.points
    axes.plot(fitted.tokens, fitted.values, "o", ms=4, color="tab:blue", label="points fitted")
    axes.plot(tokens / BILLION, value, color="tab:red", label="all laws by weight")
    if np.isfinite(low).all() and np.isfinite(high).all():
        label = f"{fit.level:.0%} prediction interval"
        axes.fill_between(tokens / BILLION, low, high, color="tab:red", alpha=0.15, label=label)
    limit = evidence.limit()
    if limit.value is not None and limit.identified:
        axes.axhline(limit.value, color="0.3", ls=":", label=f"limit {limit.value:.4g}")
    axes.set(xlabel="training tokens / billions", ylabel="activation ratio", title=curve.title)
    axes.legend(fontsize=8)


def _draw_linearized(axes, fit: Fit) -> None:  # type: ignore[no-untyped-def]
    """The law as a straight line: the share of the change that is still to come."""
    law, span = fit.problem.law, fit.problem.span
    theta = fit.solution.theta[0]
    start, change = float(fit.solution.start[0]), float(fit.solution.change[0])
    limit_shape = float(law.shape_limit(theta, span))
    axes.set(xlabel="training tokens / billions", title="distance to the limit")
    if change == 0:
        axes.text(
            0.5, 0.5, "no trend: nothing to straighten", ha="center", transform=axes.transAxes
        )
        return
    limit = start + change * limit_shape
    distance = np.abs(fit.points.values - limit)
    line = np.linspace(span.first, span.last, 200)
    law_distance = np.abs(start + change * law.shape(line, theta, span) - limit)
    if fit.law == "relu":
        alpha = float(theta[0])
        axes.set_xscale("function", functions=(lambda x: np.abs(x) ** alpha, _root(alpha)))
    else:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(fit.points.tokens, distance, "o", ms=4, color="tab:blue")
    axes.plot(line, law_distance, color="tab:red")
    axes.set_ylabel("|A - A0|")


def _root(alpha: float):  # type: ignore[no-untyped-def]
    return lambda x: np.abs(x) ** (1 / alpha)
