"""Which neurons are weak: perplexity against activation ratio (Fig 2, 15).

A way of choosing weak neurons is the better the fewer neurons it keeps at the same rise of
perplexity. Which one that is, is read off the measured curves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from sparsing.analysis.figures.curves import colours, label
from sparsing.analysis.figures.data import ReportedRun, StudyData
from sparsing.analysis.figures.style import CATEGORIES, QUIET, legend_below, percent_axis
from sparsing.registry import METRICS

WAYS = {name: METRICS[name].title for name in ("cett", "fat", "topk", "relu")}
"""Ways of choosing weak neurons, as the paper calls them."""
MARKERS = {"cett": "o", "fat": "s", "topk": "^", "relu": "*"}
LEAST_PERCENT = 0.01
"""Perplexity rises below this are chance; figures show them at it."""

Points = list[tuple[float, float]]


def read_pareto(data: StudyData) -> pl.DataFrame:
    """Points of the mixture: run, metric, parameter, activation_ratio, ppl_rise_percent.

    With FAT and CETT ends straightforward ReLU, which they become with a threshold of nothing.
    """
    rows = data.store.scan("pareto").filter(pl.col("domain").is_null())
    last = rows.filter(pl.col("step") == pl.col("step").max().over("run"))
    columns = ["run", "metric", "parameter", "activation_ratio", "ppl_rise_percent"]
    found = last.select(columns).unique(columns[:3], keep="last").collect()
    straight = found.filter(pl.col("metric") == "relu")
    ends = [straight.with_columns(metric=pl.lit(way)) for way in ("fat", "cett")]
    return pl.concat([found, *ends]).sort("run", "metric", "activation_ratio")


def curves_of(rows: pl.DataFrame, run: str) -> dict[str, Points]:
    """A run's curve of each way: ratio and perplexity rise in percent, by rising ratio."""
    mine = rows.filter(pl.col("run") == run)
    found: dict[str, Points] = {}
    for way in WAYS:
        part = mine.filter(pl.col("metric") == way)
        if len(part):
            found[way] = list(part.select("activation_ratio", "ppl_rise_percent").iter_rows())
    return found


def crossing(points: Points, rise: float) -> float | None:
    """The smallest activation ratio at which perplexity rises by `rise` percent.

    In log-log between the points of a curve; None where the curve does not cross it.
    """
    below = next((i for i, (_, at) in enumerate(points) if at <= rise), None)
    if not below:
        return None
    (few, high), (many, low) = points[below - 1], points[below]
    low = max(low, min(LEAST_PERCENT, rise))
    share = math.log(high / rise) / math.log(high / low)
    return math.exp(math.log(few) + share * math.log(many / few))


def smallest_ratios(curves: Mapping[str, Points], rise: float) -> dict[str, float]:
    """The smallest ratio of each way, as far as was measured, that costs no more than `rise`."""
    found = {}
    for way, points in curves.items():
        if points[0][1] <= rise:
            found[way] = points[0][0]
        elif (ratio := crossing(points, rise)) is not None:
            found[way] = ratio
    return found


def draw_pareto(axes: Axes, rows: pl.DataFrame, runs: list[ReportedRun], asked: float) -> None:
    """Perplexity rise against activation ratio of runs that differ in seed: a colour per way."""
    style: dict[str, Any] = {"lw": 1.4, "ms": 4.5, "alpha": 0.9}
    axes.axhline(asked, color=QUIET, lw=0.9, ls=(0, (3, 2)))
    for run in runs:
        curves = curves_of(rows, run.run.id)
        for (way, title), colour in zip(WAYS.items(), CATEGORIES, strict=False):
            if way in curves:
                ratios, rises = zip(*curves[way], strict=True)
                style |= {"marker": MARKERS[way], "color": colour, "label": title}
                axes.plot(ratios, _shown(rises), **style | ({"ms": 11} if way == "relu" else {}))
    axes.set_title(label(runs[0]))
    axes.set_xscale("log")
    _percent_ticks(axes.xaxis, 100, (1.0, 2.0, 5.0))
    axes.set_xlabel("activation ratio")
    _rise_axis(axes)
    legend_below(axes)


def draw_rise_at_cett(axes: Axes, data: StudyData, rows: pl.DataFrame) -> None:
    """Perplexity rise against the CETT value, of every run."""
    _draw_at_cett(axes, data, rows, "ppl_rise_percent")
    axes.set_title("Perplexity against CETT")
    _rise_axis(axes)
    legend_below(axes)


def draw_ratio_at_cett(axes: Axes, data: StudyData, rows: pl.DataFrame) -> None:
    """Activation ratio against the CETT value, of every run."""
    _draw_at_cett(axes, data, rows, "activation_ratio")
    axes.set_title("Activation ratio against CETT")
    axes.set_ylim(bottom=0)
    percent_axis(axes, "activation ratio")
    legend_below(axes)


def _draw_at_cett(axes: Axes, data: StudyData, rows: pl.DataFrame, column: str) -> None:
    chosen = colours(data)
    of_cett = rows.filter(pl.col("metric") == "cett", pl.col("parameter").is_not_null())
    for run in data.runs:
        mine = of_cett.filter(pl.col("run") == run.run.id).sort("parameter")
        if len(mine):
            values = mine[column].to_list()
            shown = _shown(values) if column == "ppl_rise_percent" else values
            style: dict[str, Any] = {"marker": "o", "ms": 3.5, "lw": 1.2, "alpha": 0.85}
            style |= {"color": chosen[run.run.id], "label": label(run)}
            axes.plot(mine["parameter"].to_list(), shown, **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("CETT")


def _shown(rises: Sequence[float]) -> np.ndarray:
    return np.maximum(rises, LEAST_PERCENT)


def _rise_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    _percent_ticks(axes.yaxis, 1, (1.0,))
    axes.set_ylabel("perplexity rise")


def _percent_ticks(axis: Axis, factor: float, subs: tuple[float, ...]) -> None:
    """Ticks of a log axis as percentages of values times `factor`."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{factor * value:g} %"))
